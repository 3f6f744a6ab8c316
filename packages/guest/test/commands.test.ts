/** Proves, against the real agent, what a command's user relies on: its output whole and in order, its input, its end. */
import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import { type GuestAgent, GuestError } from '../src/index.ts';
import { commands, test, text } from './harness.ts';

let agent: GuestAgent;

test.beforeAll(({ agent: connected }) => {
  agent = connected;
});

function sh(script: string): string[] {
  return ['sh', '-c', script];
}

test('a command returns both streams and its exit code', async () => {
  const result = await agent.run(sh('echo out; echo err >&2; exit 3'));
  expect([text(result.stdout), text(result.stderr), result.exitCode]).toEqual(['out\n', 'err\n', 3]);
});

test('binary output arrives unchanged', async () => {
  const result = await agent.run(['printf', '\\000\\001\\377\\n\\000']);
  expect([...result.stdout]).toEqual([0, 1, 255, 10, 0]);
});

test('a missing program ends with 127, and one without execute permission with 126', async () => {
  const absent = await agent.run(['no-such-program']);
  expect([absent.exitCode, absent.errorCode]).toEqual([127, 'command_not_found']);
  expect(text(absent.stderr)).toContain('no-such-program');
  const forbidden = await agent.run(['/etc/passwd']);
  expect([forbidden.exitCode, forbidden.errorCode]).toEqual([126, 'permission_denied']);
});

test('input of many MiB arrives unchanged', async () => {
  const data = randomBytes(8 * 1024 * 1024);
  const result = await agent.run(['cat'], { stdin: data });
  expect(Buffer.compare(result.stdout, data)).toBe(0);
});

test('a command that does not read its input still ends', async () => {
  const result = await agent.run(['true'], { stdin: Buffer.alloc(4 * 1024 * 1024) });
  expect(result.exitCode).toBe(0);
});

test('input can be sent in pieces and then closed', async () => {
  const output = await agent.exec(['cat'], { stdin: true });
  await agent.writeStdin(output.id, Buffer.from('one '));
  await agent.writeStdin(output.id, Buffer.from('two'), { close: true });
  let said = '';
  for await (const event of output) if (event.stream === 'stdout') said += text(event.data);
  expect([said, output.exit?.exitCode]).toEqual(['one two', 0]);
  await expect(agent.writeStdin(output.id, Buffer.from('x'))).rejects.toMatchObject({ code: 'stdin_closed' });
});

test('the reply tells of a command that ended during its input, however much was sent', async () => {
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      yield Buffer.alloc(64 * 1024);
    }
  }
  for (let round = 0; round < 30; round += 1) {
    const { id } = await agent.start(sh(`head -c ${round * 50_000 + 1} >/dev/null`), { stdin: true });
    const feeding = agent.writeStdin(id, endless());
    const refusal = await feeding.then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(refusal).toBeInstanceOf(GuestError);
    expect(['stdin_closed', 'not_running', 'unknown_command']).toContain((refusal as GuestError).code);
  }
});

test('64 MiB arrive whole even if the reader is slow at first', async () => {
  const bytes = 64 * 1024 * 1024;
  const output = await agent.exec(sh(`head -c ${bytes} /dev/zero | tr '\\0' 'x'`));
  await sleep(300);
  const hash = createHash('sha256');
  let end = 0;
  for await (const event of output) {
    if (event.stream === 'gap') throw new Error('output was lost');
    expect(event.offset).toBe(end);
    end += event.data.length;
    hash.update(event.data);
  }
  expect(end).toBe(bytes);
  expect(hash.digest('hex')).toBe(createHash('sha256').update(Buffer.alloc(bytes, 'x')).digest('hex'));
});

test('without a reader the oldest output is dropped, and the command is not blocked', async () => {
  const { id } = await agent.start(sh('seq 1 200000'), { outputLimitBytes: 64 * 1024 });
  await expect.poll(async () => (await agent.get(id)).running).toBe(false);
  const output = await agent.attach(id, { offset: 0 });
  const events = [];
  for await (const event of output) events.push(event);
  const info = await agent.get(id);
  expect(events[0]).toEqual({ stream: 'gap', from: 0, to: info.outputStart });
  expect(info.outputEnd - info.outputStart).toBe(64 * 1024);
  const last = events.at(-1);
  expect(last?.stream === 'stdout' && text(last.data).endsWith('199999\n200000\n')).toBe(true);
});

test('the timeout ends the whole group and keeps the output so far', async () => {
  const result = await agent.run(sh('echo before; sleep 60 & sleep 60'), { commandTimeoutMs: 1000 });
  expect(result).toMatchObject({ exitCode: 137, signal: 'KILL', timedOut: true });
  expect(text(result.stdout)).toBe('before\n');
});

test('signals reach the group; an ended command takes none', async () => {
  const output = await agent.exec(['sleep', '60']);
  expect(await agent.signal(output.id, 'TERM')).toBe(true);
  expect(await output.wait()).toMatchObject({ exitCode: 143, signal: 'TERM', timedOut: false });
  expect(await agent.signal(output.id, 15)).toBe(false);
  await expect(agent.signal(output.id, 'NOPE')).rejects.toMatchObject({ code: 'bad_signal' });
});

test('a child that keeps the pipes open does not delay the end', async () => {
  // Far longer than this test may take.
  const result = await agent.run(sh('sleep 1000 & echo done'));
  expect(text(result.stdout)).toBe('done\n');
});

test('environment, working directory and user come from the request, or else from the configuration', async () => {
  await agent.configure({ env: { A: 'image', B: 'image' }, workdir: '/usr', cmd: ['sh', '-c', 'echo $A $B $PWD'] });
  const result = await agent.run([], { env: { B: 'request' } });
  expect(text(result.stdout)).toBe('image request /usr\n');
  expect(text((await agent.run(['pwd'], { cwd: 'lib' })).stdout)).toMatch(/lib\n$/);
  await expect(agent.run(['true'], { cwd: '/no/such' })).rejects.toMatchObject({ code: 'bad_cwd', status: 400 });
  await expect(agent.run(['true'], { user: 'nobody-such' })).rejects.toMatchObject({ code: 'unknown_user' });
  await agent.configure({});
});

test('a user can be given by name or by numbers, and has the groups of the guest', async ({ skip }) => {
  skip(process.getuid?.() !== 0, 'only root can run programs as another user');
  expect(text((await agent.run(sh('id -u; echo $HOME'), { user: 'nobody' })).stdout)).toBe('65534\n/nonexistent\n');
  expect(text((await agent.run(sh('id -u; id -g'), { user: '4242:77' })).stdout)).toBe('4242\n77\n');
});

test('commands can be listed, read and forgotten', async () => {
  const { id } = await agent.start(['sleep', '60']);
  expect((await commands(agent)).find((command) => command.id === id)).toMatchObject({
    running: true,
    args: ['sleep', '60'],
  });
  expect(await agent.forget(id)).toBe(true);
  expect(await agent.forget(id)).toBe(false);
  await expect(agent.get(id)).rejects.toMatchObject({ code: 'unknown_command', status: 404 });
});

test('an aborted run kills its command', async () => {
  const abort = new AbortController();
  const marker = `4${Math.floor(Math.random() * 1e6)}`;
  const run = agent.run(['sh', '-c', 'echo begun; exec sleep 600', marker], {
    signal: abort.signal,
    onOutput: () => abort.abort(),
  });
  await expect(run).rejects.toMatchObject({ code: 'aborted' });
  expect((await commands(agent)).some(({ args }) => args.includes(marker))).toBe(false);
});

test('fifty commands side by side keep their outputs apart', async () => {
  const results = await Promise.all(
    Array.from({ length: 50 }, (_, index) => agent.run(sh(`echo ${index}; sleep 0.1; echo ${index}`))),
  );
  results.forEach((result, index) => expect(text(result.stdout)).toBe(`${index}\n${index}\n`));
});
