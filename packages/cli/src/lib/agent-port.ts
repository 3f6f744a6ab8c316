import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import type { EvalRequest, ExecRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { reportOf, UsageError } from './errors.ts';

/** The address of a sandbox's agent. It is on this host only, because the port asks for no token. */
export interface AgentAddress {
  host: string;
  port: number;
}

const CONNECTIONS_MAX = 64;
/** The time in which a caller must have sent its request. */
const REQUEST_TIMEOUT_MS = 30_000;
const REQUEST_BYTES_MAX = 2 * limits.codeBytesMax;
const EXEC_TIMEOUT_SECS = 30;

export function agentAddress(text: string): AgentAddress {
  const [, host = '', digits = ''] = /^(localhost|127(?:\.\d{1,3}){3}|\[::1\]):(\d{1,5})$/.exec(text) ?? [];
  const port = Number(digits);
  if (host === '' || port > 65_535) {
    throw new UsageError(`--agent-address: "${text}" is not an address of this host.`, 'Write it as 127.0.0.1:8888.');
  }
  return { host: host.replace(/[[\]]/g, ''), port };
}

/**
 * Serves the protocol of earlier guest agents for one sandbox: a connection carries one request, a line of JSON, and its
 * reply. Programs that talk to an agent by its address so reach one that has no address. The returned function ends it.
 */
export async function serveAgent(client: ForkdClient, sandboxId: string, address: AgentAddress): Promise<() => void> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    serve(socket, client, sandboxId).catch((error: unknown) => socket.destroy(error as Error));
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.listen(address);
  await once(server, 'listening');
  return () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
}

async function serve(socket: Socket, client: ForkdClient, sandboxId: string): Promise<void> {
  const gone = new AbortController();
  socket.once('close', () => gone.abort());
  socket.on('error', () => socket.destroy());
  socket.setTimeout(REQUEST_TIMEOUT_MS, () => socket.destroy());
  try {
    const line = await readLine(socket);
    socket.setTimeout(0);
    socket.end(`${JSON.stringify(await answer(JSON.parse(line), client, sandboxId, gone.signal))}\n`);
  } catch (error) {
    socket.end(`${JSON.stringify({ error: reportOf(error).error, exit_code: 1 })}\n`);
  }
}

async function readLine(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > REQUEST_BYTES_MAX) throw new UsageError(`A request is at most ${REQUEST_BYTES_MAX} bytes long.`);
    chunks.push(chunk);
    if (chunk.includes(10)) break;
  }
  return Buffer.concat(chunks).toString('utf8').split('\n', 1)[0] ?? '';
}

/** The controller checks the fields of the request. */
async function answer(request: unknown, client: ForkdClient, id: string, signal: AbortSignal): Promise<object> {
  const { action, args, timeout = EXEC_TIMEOUT_SECS, code } = (request ?? {}) as Record<string, unknown>;
  if (action === 'ping') return client.ping(id, { signal });
  if (action === 'exec') return client.exec(id, { args, timeout_secs: timeout } as ExecRequest, { signal });
  if (action !== 'eval') throw new UsageError('A request has the action "exec", "eval" or "ping".');
  const { error, ...evaluated } = await client.eval(id, { code } as EvalRequest, { signal });
  // Callers take a reply with this field for a failure, whatever its value.
  return error === null ? evaluated : { error, exit_code: evaluated.exit_code };
}
