/** Proves that a VMM that lies on its monitor, and a pager that is none, fail the call that waits for them, and nothing else. */

import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { Link } from '../src/daemon/link.ts';
import { waitUntilRunning } from '../src/index.ts';
import { pagerKind } from '../src/pager/link.ts';

/** A socket at which each connection is told something. */
async function peer(say: (socket: Socket) => void): Promise<string> {
  const dir = await mkdtemp('/tmp/fk-peer-');
  const path = join(dir, 'peer.sock');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    say(socket);
  }).listen(path);
  await once(server, 'listening');
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await rm(dir, { recursive: true, force: true });
  });
  return path;
}

function endless(text: string): (socket: Socket) => void {
  return (socket) => {
    const chunk = Buffer.alloc(64 * 1024, text);
    const go = (): void => {
      while (!socket.destroyed && socket.write(chunk));
    };
    socket.on('drain', go);
    go();
  };
}

const lies: [string, (socket: Socket) => void][] = [
  ['no JSON', (socket) => socket.write('<html>\n{"return":\n')],
  [
    'JSON of other shapes',
    (socket) => socket.write('null\n7\n[]\n{"return":null}\n{"return":{"status":{}}}\n{"event":[]}\n'),
  ],
  ['a line without an end', endless('x')],
  ['messages without an end', endless('{}\n')],
  ['nothing', () => undefined],
  ['its end', (socket) => socket.end()],
];

test.each(lies)('a monitor that says %s fails the start within the deadline', async (_what, say) => {
  const path = await peer(say);
  await expect(waitUntilRunning(path, AbortSignal.timeout(1000))).rejects.toThrow(/monitor|timeout/);
});

test.each([
  ...lies.filter(([what]) => what !== 'a line without an end'),
  ['replies of other shapes', (socket: Socket) => socket.write('{"id":1,"kind":"err"}\n{"id":1,"kind":"ok"}\n')],
] as typeof lies)('a pager that says %s fails the request within its time', async (_what, say) => {
  const path = await peer(say);
  const link = new Link(pagerKind, connect(path));
  onTestFinished(() => link.close());
  await expect(link.request({ op: 'hello' }, { signal: AbortSignal.timeout(1000) })).rejects.toThrow(
    /was lost|given up/,
  );
});
