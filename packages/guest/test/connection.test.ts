/** Proves that connections can break at any byte while commands and the agent go on, and that the next one finds everything. */
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { GuestAgent } from '../src/index.ts';
import { listed, startAgent, startProxy, text, type Harness } from './harness.ts';

let harness: Harness;

beforeEach(async () => {
  harness = await startAgent();
});

afterEach(async () => {
  await harness?.stop();
});

test('a command survives a broken connection without losing output', async () => {
  const proxy = await startProxy(harness);
  const lines = 300_000;
  const first = await GuestAgent.connect(proxy.socketPath);
  const output = await first.exec(['seq', '1', String(lines)], { outputLimitBytes: 4 * 1024 * 1024 });
  let said = '';
  let end = 0;
  const failure = await (async () => {
    for await (const event of output) {
      if (event.stream === 'gap') throw new Error('a gap');
      said += text(event.data);
      end = event.offset + event.data.length;
      if (end > 500_000) {
        proxy.cut();
        await sleep(50);
      }
    }
  })().catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: 'guest_disconnected' });
  await expect(first.ping()).rejects.toMatchObject({ code: 'guest_disconnected' });

  const second = await GuestAgent.connect(proxy.socketPath);
  const rest = await second.attach(output.id, { offset: end });
  for await (const event of rest) {
    if (event.stream === 'gap') throw new Error(`a gap from ${event.from} to ${event.to}`);
    said += text(event.data);
  }
  expect(rest.exit?.exitCode).toBe(0);
  expect(said).toBe(Array.from({ length: lines }, (_, index) => `${index + 1}\n`).join(''));
  await second.close();
  await proxy.close();
});

test('a connection cut at every early byte leaves the agent ready for the next', async () => {
  for (let bytes = 1; bytes < 260; bytes += 7) {
    const proxy = await startProxy(harness, bytes);
    const attempt = GuestAgent.connect(proxy.socketPath, { timeoutMs: 5_000 }).then((agent) => agent.ping());
    const outcome = await attempt.catch((error: unknown) => error);
    // Where the cut came after the request it may have been answered.
    if (bytes < 100) expect(outcome).toMatchObject({ code: 'guest_disconnected' });
    await proxy.close();
  }
  const agent = await GuestAgent.connect(harness.socketPath);
  expect((await agent.ping()).version).toMatch(/\d/);
  await agent.close();
});

test('garbage before the first frame is skipped', async () => {
  const socket = connect(harness.socketPath);
  await new Promise<void>((resolve) =>
    socket.write(Buffer.from('not a frame \xff\x00\x01\x02', 'latin1'), () => resolve()),
  );
  socket.destroy();
  const agent = await GuestAgent.connect(harness.socketPath);
  expect((await agent.run(['echo', 'ok'])).exitCode).toBe(0);
  await agent.close();
});

test('an upload that breaks off leaves no file', async () => {
  const proxy = await startProxy(harness);
  const agent = await GuestAgent.connect(proxy.socketPath);
  const path = `${harness.folder}/upload/half`;
  const body = (async function* (): AsyncGenerator<Uint8Array> {
    yield new Uint8Array(300_000);
    await sleep(100);
    proxy.cut();
    await sleep(50);
    yield new Uint8Array(1);
  })();
  await expect(agent.writeFile(path, body)).rejects.toMatchObject({ code: 'guest_disconnected' });
  const next = await GuestAgent.connect(harness.socketPath);
  await expect.poll(() => listed(next, `${harness.folder}/upload`)).toEqual([]);
  await next.close();
  await proxy.close();
});

test('everything pending fails when the agent dies', async () => {
  const agent = await GuestAgent.connect(harness.socketPath);
  const pending = [agent.run(['sleep', '60']), agent.eval('import time; time.sleep(60)')];
  await sleep(300);
  harness.process.kill('SIGKILL');
  for (const outcome of await Promise.allSettled(pending)) {
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'guest_disconnected' } });
  }
  await agent.closed;
});

test('connecting has a deadline and can be aborted', async () => {
  const path = `${harness.folder}/nobody.sock`;
  await expect(GuestAgent.connect(path, { timeoutMs: 100 })).rejects.toMatchObject({ code: 'guest_timeout' });
  const signal = AbortSignal.timeout(50);
  await expect(GuestAgent.connect(path, { signal })).rejects.toMatchObject({ code: 'aborted' });
});
