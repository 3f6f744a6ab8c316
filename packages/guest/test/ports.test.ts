/** Proves, against the real agent: a port of its machine is reached on either loopback, both ways, and nothing stays open behind it. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { expect, onTestFinished } from 'vitest';
import { GuestAgent, GuestError } from '../src/index.ts';
import { allOf, startAgent, startProxy, test, text } from './harness.ts';

const PORTS_MAX = 128;

/** A program that listens. Resolves with its port, and its connections as they come. */
async function program(onConnection: (socket: Socket) => void, host = '127.0.0.1'): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    onConnection(socket);
  });
  server.listen(0, host);
  await once(server, 'listening');
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

test.for(['127.0.0.1', '::1'])(
  'bytes go both ways to a program on %s, and each direction ends by itself',
  async (host, { agent }) => {
    const echo = await agent.connectPort(await program((socket) => socket.pipe(socket), host));
    const much = Buffer.alloc(3 * 1024 * 1024, 'forkd ');
    echo.write(much.subarray(0, 7));
    expect(text((await once(echo, 'data'))[0] as Buffer)).toBe('forkd f');
    echo.end(much.subarray(7));
    expect((await allOf(echo)).equals(much.subarray(7))).toBe(true);
    // The program says all, and reads on.
    let heard: Promise<Buffer> | undefined;
    const port = await program((socket) => {
      socket.end('bye');
      heard = allOf(socket);
    }, host);
    const connection = await agent.connectPort(port);
    const said: Buffer[] = [];
    await once(
      connection.on('data', (piece: Buffer) => said.push(piece)),
      'end',
    );
    expect(text(Buffer.concat(said))).toBe('bye');
    connection.end('and thanks');
    expect(text((await heard) ?? Buffer.of())).toBe('and thanks');
  },
);

test('a port where nothing listens is said to be unreachable', async ({ agent }) => {
  const failure = await agent.connectPort(1).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(GuestError);
  expect(failure).toMatchObject({ code: 'port_unreachable', message: expect.stringContaining('port 1') });
});

test('connections have a bound, and end with their caller', async () => {
  const harness = await startAgent();
  onTestFinished(() => harness.stop());
  const proxy = await startProxy(harness);
  onTestFinished(() => proxy.close());
  const agent = await GuestAgent.connect(proxy.socketPath);
  let open = 0;
  const port = await program((socket) => {
    open += 1;
    socket.once('close', () => (open -= 1));
    socket.once('end', () => socket.end()).resume();
  });
  const held: Duplex[] = [];
  for (let count = 0; count < PORTS_MAX; count += 1) held.push(await agent.connectPort(port));
  await expect(agent.connectPort(port)).rejects.toMatchObject({ code: 'too_many_connections' });
  expect((await agent.ping()).pid).toBeGreaterThan(0);
  for (const connection of held) connection.destroy();
  await expect.poll(() => open).toBe(0);
  const cut = await agent.connectPort(port);
  const broken = once(cut, 'error');
  await expect.poll(() => open).toBe(1);
  proxy.cut();
  expect(await broken).toEqual([expect.objectContaining({ code: 'transfer_broken' })]);
  await expect.poll(() => open).toBe(0);
});
