/**
 * The promises of the SDK, on a real controller and real guests: handles find again what is there, calls resolve when they say,
 * and a fork or a branch whose answer is lost on the way is done once, however often it is asked. Answers are lost by a port in
 * between that cuts a connection at its first byte back.
 */
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { type ClientOptions, ConflictError, ForkdClient, NotFoundError, Sandbox, Snapshot } from '@forkd/sdk';
import { test as base } from '@forkd/testing/vitest';
import { expect } from 'vitest';

const test = base
  .extend('lossy', { scope: 'file' }, async ({ controller }, { onCleanup }) => {
    const port = await LossyPort.open(controller.socket);
    onCleanup(() => port.close());
    return port;
  })
  // Options that make calls of the SDK go through that port.
  .extend('through', { scope: 'file' }, ({ lossy }, { onCleanup }): ClientOptions => {
    const client = new ForkdClient({ url: lossy.url });
    onCleanup(() => client.close());
    return { client };
  });

test('a handle finds its sandbox again, and says when it is gone', async ({ client }) => {
  const sandbox = await Sandbox.create({ snapshotTag: 'base', client });
  expect((await Sandbox.list({ client })).map(({ id }) => id)).toEqual([sandbox.id]);
  const again = await Sandbox.connect(sandbox.id, { client });
  expect(await again.isRunning()).toBe(true);
  expect((await again.ping()).pong).toBe(true);
  expect(await again.getInfo()).toEqual(await Sandbox.getInfo(sandbox.id, { client }));
  expect(await again.kill()).toBe(true);
  expect(await Sandbox.kill(sandbox.id, { client })).toBe(false);
  expect(await sandbox.isRunning()).toBe(false);
  await expect(sandbox.getInfo()).rejects.toBeInstanceOf(NotFoundError);
});

test('a branch resolves at the requested stage, and can wait for the next', async ({ client }) => {
  await using sandbox = await Sandbox.create('base', { client });
  const early = await sandbox.branch({ tag: 'early', until: 'resumed' });
  expect((await early.waitUntil('ready')).info.status).toBe('ready');
  expect((await early.waitUntil('durable')).info.durable).toBe(true);
  expect((await early.detail()).ancestors).toEqual(['base']);
  const kept = await client.branch(sandbox.id, { tag: 'kept', mode: 'diff', parent_tag: 'base' });
  await expect(Snapshot.delete('base', { client })).rejects.toBeInstanceOf(ConflictError);
  expect(await Snapshot.delete(kept.tag, { client })).toBe(true);
  const [child] = await sandbox.fork(1, { tag: 'late' });
  const late = await Snapshot.get('late', { client });
  await late.waitUntil('durable');
  expect(await late.delete()).toBe(true);
  // The child outlives its snapshot.
  expect(await child?.commands.run('echo here')).toMatchObject({ stdout: 'here\n' });
  expect(await child?.kill()).toBe(true);
  expect(await early.delete()).toBe(true);
  expect(await early.delete()).toBe(false);
});

test('a read whose reply was lost is repeated', async ({ lossy, through }) => {
  lossy.loseNext();
  expect((await Snapshot.list(through)).map(({ tag }) => tag)).toEqual(['base']);
  expect(lossy.lost).toBe(true);
});

test('a fork and a branch whose reply was lost are carried out once', async ({ client, lossy, through }) => {
  lossy.loseNext();
  const made = await Sandbox.createMany('base', 3, through);
  expect(lossy.lost).toBe(true);
  const ids = made.map(({ id }) => id).toSorted();
  expect((await Sandbox.list({ client })).map(({ id }) => id).toSorted()).toEqual(ids);
  lossy.loseNext();
  const branch = await made[0]?.branch({ until: 'durable' });
  expect(lossy.lost).toBe(true);
  const branches = (await Snapshot.list({ client })).filter((snapshot) => snapshot.info.branched_from !== undefined);
  expect(branches.map(({ tag }) => tag)).toEqual([branch?.tag]);
  await Promise.all(ids.map((id) => Sandbox.kill(id, { client })));
});

/** A TCP port before a unix socket, which passes everything on but for answers that it is told to lose. */
class LossyPort {
  lost = false;
  readonly #server: Server;
  #loses = false;

  private constructor(socketPath: string) {
    this.#server = createServer((near) => {
      const far = connect(socketPath);
      near.on('error', () => far.destroy());
      far.on('error', () => near.destroy());
      near.on('close', () => far.destroy());
      far.on('close', () => near.destroy());
      near.pipe(far);
      far.on('data', (bytes: Buffer) => {
        if (!this.#loses) return near.write(bytes);
        this.#loses = false;
        this.lost = true;
        near.destroy();
      });
    });
  }

  static async open(socketPath: string): Promise<LossyPort> {
    const port = new LossyPort(socketPath);
    await new Promise<void>((resolve) => port.#server.listen(0, '127.0.0.1', resolve));
    return port;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  loseNext(): void {
    this.#loses = true;
    this.lost = false;
  }

  close(): Promise<void> {
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}
