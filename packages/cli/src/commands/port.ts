import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { reportOf, UsageError } from '../lib/errors.ts';
import { resolveSandbox } from '../parse/resolve.ts';

const CONNECTIONS_MAX = 256;
const PORT_MAX = 65_535;

export const port = defineCommand({
  name: 'port',
  summary: 'make a port of a sandbox reachable on this host, until Ctrl-C',
  description:
    'Listens on 127.0.0.1 and passes each connection on to the port of the guest. The service there must listen on all ' +
    'addresses (0.0.0.0), not only on 127.0.0.1. No rule is needed for it.',
  args: [
    { name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' },
    { name: 'port', summary: 'port of the guest, or PORT:HOSTPORT; HOSTPORT 0 is any free port' },
  ],
  options: [],
  examples: [
    { line: 'forkd port web 8000', summary: 'http://127.0.0.1:8000 is the service in the sandbox' },
    { line: 'forkd port web 80:8080', summary: 'its port 80 is port 8080 here' },
  ],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  const [guestPort, hostPort] = portsOf(args[1] ?? '');
  const client = await context.client();
  const id = await resolveSandbox(client, args[0] ?? '', context);
  // Said before anything listens.
  const { network } = await client.getSandbox(id, { signal: context.signal });
  if (network === undefined) {
    throw new UsageError(`port: Sandbox ${id} has no network device.`, 'Build its template with --net.');
  }
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    forward(socket, client, id, guestPort).catch((error: unknown) => context.out.note(reportOf(error).error));
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.listen(hostPort, '127.0.0.1');
  try {
    await once(server, 'listening', { signal: context.signal });
    const { port: actual } = server.address() as AddressInfo;
    if (context.out.isJson)
      context.out.jsonLine({ sandbox: id, port: guestPort, host: '127.0.0.1', host_port: actual });
    else context.out.line(`127.0.0.1:${actual} -> ${id}:${guestPort}`);
    await once(server, 'close', { signal: context.signal });
  } finally {
    server.close();
    for (const socket of sockets) socket.destroy();
  }
}

/** Passes a connection on until both sides have ended. A connection that fails does not end the others. */
async function forward(socket: Socket, client: ForkdClient, id: string, guestPort: number): Promise<void> {
  const gone = new AbortController();
  socket.once('close', () => gone.abort());
  try {
    await pipeline(client.connectPort(id, guestPort, socket, { signal: gone.signal }), socket);
  } catch (error) {
    socket.destroy();
    if (!gone.signal.aborted) throw error;
  }
}

function portsOf(text: string): [number, number] {
  const [, guest, host] = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(text) ?? [];
  const ports: [number, number] = [Number(guest), Number(host ?? guest)];
  if (ports[0] >= 1 && ports.every((one) => one <= PORT_MAX)) return ports;
  throw new UsageError(`port: "${text}" is not a port.`, 'Write it as PORT or PORT:HOSTPORT.');
}
