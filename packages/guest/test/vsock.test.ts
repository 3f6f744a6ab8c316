/**
 * The agent behind a VMM's vsock socket: a connection names the guest's port first, and is the agent's from the next byte on.
 * The VMM's end is played here, in front of the real agent; the VMM that really does it is in the tests of the engine.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { openChannel } from '../src/channel.ts';
import { GuestError } from '../src/errors.ts';
import { GuestAgent } from '../src/index.ts';
import { type Harness, startAgent, text } from './harness.ts';

const PORT = 10_777;

let harness: Harness;
let device: Device | undefined;

beforeAll(async () => {
  harness = await startAgent();
});

afterEach(async () => {
  await device?.close();
  device = undefined;
});

afterAll(async () => {
  await harness.stop();
});

/** What the VMM does with each connection: `answer` is what it says to the first line; `null` is a hang-up. */
class Device {
  readonly path: string;
  readonly asked: string[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(path: string, answer: (attempt: number) => string | null) {
    this.path = path;
    this.#server = createServer((host) => {
      this.#sockets.add(host);
      host.on('error', () => undefined).on('close', () => this.#sockets.delete(host));
      host.once('data', (line: Buffer) => {
        this.asked.push(line.toString());
        const said = answer(this.asked.length);
        if (said === null) return void host.destroy();
        host.write(said);
        const guest = connect(harness.socketPath).on('error', () => undefined);
        host.pipe(guest).pipe(host);
        host.once('close', () => guest.destroy());
      });
    });
  }

  static async listen(answer: (attempt: number) => string | null): Promise<Device> {
    const opened = new Device(join(harness.folder, `vsock-${Math.random().toString(36).slice(2)}.sock`), answer);
    opened.#server.listen(opened.path);
    await once(opened.#server, 'listening');
    return opened;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

test('the client asks for the port, and then speaks to the agent', async () => {
  device = await Device.listen(() => 'OK 1073741824\n');
  await using agent = await GuestAgent.connect(device.path, { vsockPort: PORT });
  const { stdout } = await agent.run(['echo', 'over vsock']);
  expect(text(stdout)).toBe('over vsock\n');
  expect(device.asked).toEqual([`CONNECT ${PORT}\n`]);
});

test('a guest that does not listen yet is retried', async () => {
  device = await Device.listen((attempt) => (attempt < 4 ? null : 'OK 7\n'));
  await using agent = await GuestAgent.connect(device.path, { vsockPort: PORT });
  expect(await agent.ping()).toBeDefined();
  expect(device.asked).toHaveLength(4);
});

test('the deadline for a guest that never listens names the socket of the port', async () => {
  device = await Device.listen(() => null);
  const connecting = GuestAgent.connect(device.path, { vsockPort: PORT, timeoutMs: 300 });
  await expect(connecting).rejects.toMatchObject({ code: 'guest_timeout' });
});

test('an aborted connection is not waited for, even if a paused VM answers nothing', async () => {
  device = await Device.listen(() => '');
  const giving = new AbortController();
  const opening = openChannel(device.path, PORT, giving.signal);
  giving.abort(new GuestError('guest_timeout', 'enough'));
  await expect(opening).rejects.toMatchObject({ code: 'guest_timeout' });
});

test('an invalid reply is not taken for the agent', async () => {
  device = await Device.listen(() => `${'x'.repeat(100)}\n`);
  const connecting = GuestAgent.connect(device.path, { vsockPort: PORT, timeoutMs: 300 });
  await expect(connecting).rejects.toMatchObject({ code: 'guest_timeout' });
});
