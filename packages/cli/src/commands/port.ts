import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { limits } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { reportOf, UsageError } from '../lib/errors.ts';
import { wholeSeconds } from '../parse/parse.ts';
import { resolveSandbox } from '../parse/resolve.ts';

const CONNECTIONS_MAX = 256;
const PORT_MAX = 65_535;

interface Options {
  url?: boolean;
  expires?: number;
}

export const port = defineCommand<Options>({
  name: 'port',
  summary: 'make a port of a sandbox reachable on this host, until Ctrl-C',
  description:
    'Listens on 127.0.0.1 and passes each connection on to the port of the guest. No rule is needed for it. A sandbox without a ' +
    'network has ports too.',
  args: [
    { name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' },
    { name: 'port', summary: 'port of the guest, or PORT:HOSTPORT; HOSTPORT 0 is any free port' },
  ],
  options: [
    { flags: '--url', summary: 'print the URL of an HTTP service in the sandbox, and listen nowhere' },
    {
      flags: '--expires <time>',
      summary: 'how long a signed URL is of use, such as 15m or 2h (default: 1h)',
      parse: wholeSeconds('--expires', 1, limits.portUrlSecsMax),
    },
  ],
  examples: [
    { line: 'forkd port web 8000', summary: 'http://127.0.0.1:8000 is the service in the sandbox' },
    { line: 'forkd port web 80:8080', summary: 'its port 80 is port 8080 here' },
    { line: 'forkd port web 8000 --url --expires 2h', summary: 'a URL for a browser' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const [guestPort, hostPort] = portsOf(args[1] ?? '');
  if (options.expires !== undefined && options.url !== true) {
    throw new UsageError('port: --expires is for --url.', 'A port that is listened on ends with this command.');
  }
  const client = await context.client();
  const id = await resolveSandbox(client, args[0] ?? '', context);
  if (options.url === true) {
    const request = { port: guestPort, ...(options.expires !== undefined && { expires_secs: options.expires }) };
    const given = await client.createPortUrl(id, request, { signal: context.signal });
    if (context.out.isJson) context.out.json(given);
    else context.out.line(given.url);
    return;
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
