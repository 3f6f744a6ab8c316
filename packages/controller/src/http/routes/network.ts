import { pipeline, Readable } from 'node:stream';
import {
  NDJSON_MEDIA_TYPE,
  NetworkFlow,
  NetworkFlowsQuery,
  NetworkPolicy,
  NetworkPresetList,
  PortParams,
  SandboxInfo,
  SandboxParams,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import { connectPort, listNetworkPresets, readFlows, setNetwork } from '../../operations/network.ts';
import type { AppParts } from '../app-parts.ts';
import { sandboxErrors } from '../openapi/errors.ts';
import { bytes, json, lines, operationsOf } from '../openapi/operation.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import { sendList } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function networkRoutes(instance: FastifyInstance, { run, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const setting = { schema: { params: SandboxParams, body: NetworkPolicy }, config: described.set };
  app.put('/v1/sandboxes/:id/network', setting, (request) => run(setNetwork, request.params.id, request.body));
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
      'begins when the guest has accepted. No rule is needed. The service must listen on all addresses of the guest, not only ' +
      'on 127.0.0.1.',
    rawBody: 'Bytes for the guest. Its end closes that direction of the connection.',
    replies: { 200: bytes('Bytes of the guest.', 'application/octet-stream', 'HTTP/1.1 200 OK\r\n') },
    errors: [...networkErrors, 'sandbox_paused', 'port_unreachable', 'busy'],
  }),
};
