/**
 * Attacks a controller beside honest clients: `hostile-client SOCKET SANDBOX CLIENTS`. Its parent sends `begin` and `pause`;
 * the answer to `pause` counts each attack. Each client makes one attack after the other, without pause: bodies that are large,
 * deep, wide or slow, uploads that are cut off, connections without a request, wrong content types, and dozens of
 * connections.
 */
import { once } from 'node:events';
import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { MIB } from '@forkd/api/constants';

/** Number of times that each attack was tried. */
export type HostileFigures = Record<string, number>;

const [socketPath = '', sandboxId = '', clients] = process.argv.slice(2);
const exec = `/v1/sandboxes/${sandboxId}/exec`;
const fields = (n: number, value: string) => Array.from({ length: n }, (_, at) => `"k${at}":${value}`).join();

const bodies = {
  'deep body': Buffer.from(`{"args":${'['.repeat(4 * MIB)}`),
  'many arguments': Buffer.from(`{"args":[${'0,'.repeat(3 * MIB)}0]}`),
  'many unknown fields': Buffer.from(`{${fields(500_000, '0')}}`),
  'full environment': Buffer.from(`{"args":["true"],"env":{${fields(8000, '"v"')}}}`),
  'long argument': Buffer.from(`{"args":["${'x'.repeat(7 * MIB)}"]}`),
};

const attacks: Record<string, () => Promise<void>> = {
  ...Object.fromEntries(Object.entries(bodies).map(([what, body]) => [what, () => post(body, 'application/json')])),
  'wrong content type': () => post(bodies['full environment'], 'text/plain'),
  'slow body': () =>
    slowly(`POST ${exec} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n\r\n`),
  'slow headers': () => slowly('GET /healthz HTTP/1.1\r\nx-slow: '),
  'silent connection': () => withSocket(() => delay(500)),
  'cut upload': () =>
    withSocket(async (socket) => {
      const head = `PUT /v1/sandboxes/${sandboxId}/files?path=/tmp/cut HTTP/1.1\r\nhost: x\r\ncontent-length: ${64 * MIB}\r\n\r\n`;
      socket.write(head);
      socket.write(bodies['long argument']);
      await delay(50);
    }),
  'flood of connections': async () => {
    await Promise.all(Array.from({ length: 100 }, () => withSocket(async () => undefined)));
  },
};

let pause = new AbortController();
let figures: HostileFigures = {};

process.on('message', (message) => {
  pause.abort();
  if (message !== 'begin') {
    process.send?.(figures);
    return;
  }
  pause = new AbortController();
  figures = {};
  const names = Object.keys(attacks);
  for (let index = 0; index < Number(clients); index += 1) void attackOnAndOn(names, index, pause.signal);
  process.send?.('begun');
});
// End with the parent, because nobody else needs this process.
process.once('disconnect', () => process.exit());
process.send?.('started');

async function attackOnAndOn(names: readonly string[], first: number, until: AbortSignal): Promise<void> {
  for (let turn = first; !until.aborted; turn += 1) {
    const name = names[turn % names.length] ?? '';
    await attacks[name]?.().catch(() => undefined);
    figures[name] = (figures[name] ?? 0) + 1;
  }
}

/** Any answer ends the attack. */
function post(body: Buffer, type: string): Promise<void> {
  return new Promise((resolve) => {
    const headers = { 'content-type': type, 'content-length': body.length };
    const asked = request({ socketPath, path: exec, method: 'POST', headers, agent: false }, (reply) => {
      reply.resume().on('close', resolve);
    });
    asked.on('error', () => resolve()).end(body);
  });
}

async function slowly(head: string): Promise<void> {
  await withSocket(async (socket) => {
    socket.write(head);
    for (let sent = 0; sent < 20 && socket.writable; sent += 1) {
      socket.write('x');
      await delay(50);
    }
  });
}

async function withSocket(use: (socket: Socket) => Promise<void>): Promise<void> {
  const socket = connect(socketPath);
  socket.on('error', () => undefined).resume();
  try {
    await once(socket, 'connect');
    await use(socket);
  } finally {
    socket.destroy();
  }
}
