import { pipeline, Readable } from 'node:stream';
import {
  ApiError,
  CreatePortUrlRequest,
  limits,
  NDJSON_MEDIA_TYPE,
  NetworkFlow,
  NetworkFlowsQuery,
  NetworkPolicy,
  NetworkPresetList,
  PortParams,
  PortUrl,
  SandboxInfo,
  SandboxParams,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import { unixNow } from '../../clock.ts';
import { getSandbox } from '../../operations/inspect.ts';
import { connectPort, listNetworkPresets, readFlows, setNetwork } from '../../operations/network.ts';
import type { AppParts } from '../app-parts.ts';
import { sandboxErrors } from '../openapi/errors.ts';
import { bytes, json, lines, operationsOf } from '../openapi/operation.ts';
import { ACCESS } from '../ports/access.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import { sendList } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function networkRoutes(instance: FastifyInstance, { run, signals, ports, portKey, tokens }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const setting = { schema: { params: SandboxParams, body: NetworkPolicy }, config: described.set };
  app.put('/v1/sandboxes/:id/network', setting, (request) => run(setNetwork, request.params.id, request.body));
  const naming = { schema: { params: SandboxParams, body: CreatePortUrlRequest }, config: described.portUrl };
  app.post('/v1/sandboxes/:id/urls', naming, (request): PortUrl => {
    const { port, expires_secs: secs = limits.portUrlSecsDefault } = request.body;
    const { id: sandbox } = run(getSandbox, request.params.id);
    const url = ports.urlOf({ sandbox, port });
    if (url === null) {
      throw new ApiError(
        'unsupported',
        `Port ${port} of sandbox ${sandbox} has no URL: the controller serves no TCP.`,
        {
          hint: 'Start the controller without --no-tcp, or call the port by its path on the unix socket.',
        },
      );
    }
    if (tokens === null) return { url, expires_at_unix: null };
    const expiresUnix = unixNow() + secs;
    return { url: `${url}?${ACCESS}=${portKey.sign({ sandbox, port }, expiresUnix)}`, expires_at_unix: expiresUnix };
  });
  app.get('/v1/network/presets', { config: described.presets }, (_request, reply) =>
    sendList(reply, run(listNetworkPresets)),
  );
  const following = { schema: { querystring: NetworkFlowsQuery }, exposeHeadRoute: false, config: described.flows };
  app.get('/v1/network/flows', following, (request, reply) => {
    const flows = run(readFlows, request.query, signals.ofStream(reply));
    return reply.type(NDJSON_MEDIA_TYPE).send(Readable.from(linesOf(flows)));
  });

  withRawBodies(instance, (raw) => {
    const typed = raw.withTypeProvider<SchemaTypes>();
    const connecting = { schema: { params: PortParams }, config: described.port };
    typed.post('/v1/sandboxes/:id/ports/:port', connecting, async (request, reply) => {
      const guest = await run(connectPort, request.params.id, request.params.port, signals.ofStream(reply));
      // A connection may be idle for as long as both sides keep it open.
      request.raw.socket.setTimeout(0);
      reply.hijack();
      // The caller learns that the port was reached before the guest says anything.
      for (const [name, value] of Object.entries(reply.getHeaders())) reply.raw.setHeader(name, value ?? '');
      reply.raw.setHeader('content-type', 'application/octet-stream').flushHeaders();
      pipeline(rawBody(request), guest, () => undefined);
      pipeline(guest, reply.raw, () => request.raw.destroy());
    });
  });
}

async function* linesOf(flows: AsyncGenerator<NetworkFlow>): AsyncGenerator<string> {
  for await (const flow of flows) yield `${JSON.stringify(flow)}\n`;
}

const operation = operationsOf('network');
const networkErrors = [...sandboxErrors, 'unsupported', 'network_unavailable', 'engine_missing'] as const;

const described = {
  set: operation('setNetwork', 'Changes what a sandbox may reach.', {
    description:
      'The whole policy is replaced. Open connections that are no longer allowed are reset. Branches that are taken later ' +
      'inherit the new policy.',
    replies: { 200: json('The sandbox.', SandboxInfo) },
    errors: networkErrors,
  }),
  portUrl: operation('createPortUrl', 'Gives the URL of a port of a sandbox.', {
    description:
      'The URL has a host name of its own, so that a browser can open it. Where the controller asks for tokens, the URL is signed, ' +
      'and is of use without a token until it expires; a URL cannot be taken back before.',
    replies: { 200: json('The URL.', PortUrl) },
    errors: [...sandboxErrors, 'unsupported'],
  }),
  presets: operation('listNetworkPresets', 'Lists the rules that have a name.', {
    replies: { 200: json('The presets.', NetworkPresetList) },
    errors: [],
  }),
  flows: operation('networkFlows', 'Streams the connections of sandboxes, and what was denied.', {
    description: 'The latest records, and with `follow` those to come.',
    replies: { 200: lines('One flow per line.', NetworkFlow) },
    errors: [],
  }),
  port: operation('connectPort', 'Connects to a TCP port of a sandbox.', {
    description:
      'The body of the request goes to the guest as it comes, and the body of the reply comes from the guest. The reply ' +
      'begins when the guest has accepted. No rule is needed. With a path after the port (`/v1/sandboxes/{id}/ports/{port}/`, or ' +
      'any longer one) the request itself, whatever its method, is passed on to an HTTP service on that port.',
    rawBody: 'Bytes for the guest. Its end closes that direction of the connection.',
    replies: { 200: bytes('Bytes of the guest.', 'application/octet-stream', 'HTTP/1.1 200 OK\r\n') },
    errors: [...networkErrors, 'sandbox_paused', 'port_unreachable', 'busy'],
  }),
};
