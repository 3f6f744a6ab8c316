import { METHODS } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { connectPort } from '../../operations/network.ts';
import type { AppParts } from '../app-parts.ts';
import { portCallOf } from './calls.ts';
import { forward } from './forward.ts';

/**
 * Passes requests for programs in guests on, with any method and any body. They reach this route by `routedUrl`. No schema describes it:
 * its requests and replies are those of the programs.
 */
export function forwardToPorts(app: FastifyInstance, { run, signals, bounds, listener, tls }: AppParts): void {
  const methods = METHODS.filter((name) => name !== 'CONNECT');
  for (const name of methods) if (!app.supportedMethods.includes(name)) app.addHttpMethod(name, { hasBody: true });
  const scheme = listener === 'tcp' && tls !== null ? 'https' : 'http';
  app.route({
    method: methods,
    url: '/v1/sandboxes/:id/ports/:port/',
    // Bodies are not read before the guest gets them.
    onRequest: async (request, reply) => {
      const call = portCallOf(request.raw);
      if (call === null) return;
      const signal = signals.ofStream(reply);
      const guest = await run(connectPort, call.sandbox, call.port, signal);
      const ownHeaders = reply.getHeaders();
      await forward({ call, request: request.raw, response: reply.raw, ownHeaders, guest, scheme, bounds, signal });
      reply.hijack();
    },
    handler: () => undefined,
  });
}
