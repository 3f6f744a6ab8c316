/** Proves, against the real agent: files of any size and content, their errors; evaluation that keeps its state, and loses it only saying so. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, existsSync, linkSync, lstatSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { expect, vi } from 'vitest';
import type { EvalResult, GuestAgent } from '../src/index.ts';
import { allOf, listed, test, type Harness } from './harness.ts';

const SYSTEM_EXIT_IN_MESSAGE = `
class E(Exception):
    def __str__(self): raise SystemExit
raise E`;
const SYSTEM_EXIT_IN_CODE = `
class E(SystemExit):
    @property
    def code(self): raise SystemExit
raise E`;
const RAISING_TIMER = `
import signal
def late(*_): raise ValueError("late")
signal.signal(signal.SIGALRM, late)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)`;

let harness: Harness;
let agent: GuestAgent;

test.beforeAll(({ harness: started, agent: connected }) => {
  harness = started;
  agent = connected;
});

function at(name: string): string {
  return `${harness.folder}/files/${name}`;
}

test('a file of many MiB is written with its mode into a new folder', async () => {
  const data = randomBytes(24 * 1024 * 1024 + 1);
  await agent.writeFile(at('deep/er/big file+&?.bin'), data, { mode: 0o750 });
  const file = await agent.readFile(at('deep/er/big file+&?.bin'));
  expect([file.sizeBytes, file.mode]).toEqual([data.length, 0o750]);
  expect(Buffer.compare(await allOf(file.data), data)).toBe(0);
});

test('an empty file, a file of /proc and a link can be read', async () => {
  await agent.writeFile(at('empty'), new Uint8Array());
  expect(await allOf((await agent.readFile(at('empty'))).data)).toHaveLength(0);
  expect(String(await allOf((await agent.readFile('/proc/self/status')).data))).toContain('forkd-agent');
  symlinkSync('empty', at('link'));
  await agent.writeFile(at('link'), Buffer.from('through'));
  expect(String(await allOf((await agent.readFile(at('empty'))).data))).toBe('through');
});

test('a read that is abandoned early does not block the others', async () => {
  await agent.writeFile(at('left'), new Uint8Array(8 * 1024 * 1024));
  for await (const chunk of (await agent.readFile(at('left'))).data) if (chunk.length > 0) break;
  expect((await agent.ping()).pid).toBeGreaterThan(0);
});

test('folders are listed in order and removed', async () => {
  await agent.writeFile(at('dir/b'), Buffer.from('12345'), { mode: 0o600 });
  await agent.writeFile(at('dir/a/x'), Buffer.from(''));
  const entries = await listed(agent, at('dir'));
  expect(entries.map(({ name, type }) => [name, type])).toEqual([
    ['a', 'dir'],
    ['b', 'file'],
  ]);
  expect(entries[1]).toMatchObject({ sizeBytes: 5, mode: 0o600 });
  await expect(agent.remove(at('dir'))).rejects.toMatchObject({ code: 'directory_not_empty' });
  expect(await agent.remove(at('dir'), { recursive: true })).toBe(true);
  expect(await agent.remove(at('dir'))).toBe(false);
});

test('a file that is overwritten keeps its owner, its mode and its links', async () => {
  await agent.writeFile(at('kept/file'), Buffer.from('old'), { mode: 0o640 });
  linkSync(at('kept/file'), at('kept/other name'));
  symlinkSync('file', at('kept/link'));
  symlinkSync('not yet', at('kept/dangling'));
  if (process.getuid?.() === 0) chownSync(at('kept/file'), 1234, 2345);
  const before = lstatSync(at('kept/file'));
  await agent.writeFile(at('kept/link'), Buffer.from('new'), { mode: 0o777 });
  await agent.writeFile(at('kept/dangling'), Buffer.from('there'));
  const { ino, uid, gid, mode, nlink } = lstatSync(at('kept/file'));
  expect([ino, uid, gid, mode, nlink]).toEqual([before.ino, before.uid, before.gid, before.mode, 2]);
  expect(readFileSync(at('kept/other name'), 'utf8')).toBe('new');
  expect(readFileSync(at('kept/not yet'), 'utf8')).toBe('there');
  rmSync(at('kept/other name'));
  await agent.writeFile(at('kept/file'), Buffer.from('newest'));
  const after = lstatSync(at('kept/file'));
  expect([after.uid, after.gid, after.mode]).toEqual([before.uid, before.gid, before.mode]);
  expect(lstatSync(at('kept/link')).isSymbolicLink()).toBe(true);
  expect(readdirSync(at('kept')).toSorted()).toEqual(['dangling', 'file', 'link', 'not yet']);
});

test('nothing takes the place of a device, a FIFO or a socket', async () => {
  await agent.makeDir(at('special'));
  execFileSync('mkfifo', [at('special/fifo')]);
  // Only root can make a device. Those of this host are no place to try it.
  const devices = process.getuid?.() === 0 ? [at('special/null')] : [];
  for (const device of devices) execFileSync('mknod', [device, 'c', '1', '3']);
  for (const path of [at('special/fifo'), harness.socketPath, ...devices]) {
    await expect(agent.writeFile(path, Buffer.from('x'))).rejects.toMatchObject({ code: 'not_a_file', status: 400 });
    expect(lstatSync(path).isFile()).toBe(false);
  }
});

test('files of the kernel whose sizes lie are read whole', async () => {
  const sysfs = '/sys/kernel/mm/transparent_hugepage/enabled';
  for (const path of ['/proc/version', sysfs].filter((one) => existsSync(one))) {
    const { sizeBytes, data } = await agent.readFile(path);
    expect([sizeBytes, String(await allOf(data))]).toEqual([undefined, readFileSync(path, 'utf8')]);
  }
});

test('a file that is being written is not listed', async () => {
  let finish = (): void => undefined;
  const finished = new Promise<void>((resolve) => (finish = resolve));
  async function* content() {
    yield Buffer.from('beginning');
    await finished;
    yield Buffer.from(' and end');
  }
  const writing = agent.writeFile(at('listed/file'), content());
  await vi.waitFor(() => expect(readdirSync(at('listed'))).toHaveLength(1), 10_000);
  expect(await listed(agent, at('listed'))).toEqual([]);
  finish();
  await writing;
  expect((await listed(agent, at('listed'))).map(({ name }) => name)).toEqual(['file']);
});

test('a path is described, with or without the link that stands there', async () => {
  await agent.writeFile(at('described/file'), Buffer.from('12345'), { mode: 0o640 });
  symlinkSync('file', at('described/link'));
  const { uid, gid } = lstatSync(at('described/file'));
  const file = { type: 'file', sizeBytes: 5, mode: 0o640, uid, gid, target: undefined };
  expect(await agent.stat(at('described/file'))).toMatchObject(file);
  expect(await agent.stat(at('described/link'))).toMatchObject({ type: 'symlink', target: 'file' });
  expect(await agent.stat(at('described/link'), { follow: true })).toMatchObject(file);
  symlinkSync('itself', at('described/itself'));
  const loop = { code: 'bad_path', status: 400 };
  await expect(agent.stat(at('described/itself'), { follow: true })).rejects.toMatchObject(loop);
  await expect(agent.readFile(at('described/itself'))).rejects.toMatchObject(loop);
  await expect(agent.writeFile(at('described/itself'), Buffer.from('x'))).rejects.toMatchObject(loop);
  await expect(agent.stat(at('described/none'))).rejects.toMatchObject({ code: 'not_found', status: 404 });
});

test('a name that is not UTF-8 keeps its bytes', async () => {
  const [name, renamed] = ['caf\udce9', 'th\udce9 \udcff'];
  await agent.writeFile(at(`bytes/${name}`), Buffer.from('content'));
  const bytes = (path: string, latin1: string) => Buffer.concat([Buffer.from(at(path)), Buffer.from(latin1, 'latin1')]);
  expect(readFileSync(bytes('bytes/', 'caf\u00e9'), 'utf8')).toBe('content');
  await agent.rename(at(`bytes/${name}`), at(`bytes/${renamed}`));
  symlinkSync(Buffer.from('th\u00e9 \u00ff', 'latin1'), at('bytes/link'));
  expect((await listed(agent, at('bytes'))).map((entry) => entry.name)).toEqual(['link', renamed]);
  expect((await agent.stat(at('bytes/link'))).target).toBe(renamed);
  expect(String(await allOf((await agent.readFile(at(`bytes/${renamed}`))).data))).toBe('content');
  expect(await agent.remove(at(`bytes/${renamed}`))).toBe(true);
});

test('directories are made once, and anything is renamed', async () => {
  await agent.makeDir(at('made/one/two'), { mode: 0o700 });
  await agent.makeDir(at('made/one/two'));
  expect(await agent.stat(at('made/one/two'))).toMatchObject({ type: 'dir', mode: 0o700 });
  await agent.writeFile(at('made/file'), Buffer.from('content'));
  await expect(agent.makeDir(at('made/file'))).rejects.toMatchObject({ code: 'not_a_directory' });
  await agent.rename(at('made/one'), at('made/three'));
  await agent.rename(at('made/file'), at('made/three/two/file'));
  expect(readFileSync(at('made/three/two/file'), 'utf8')).toBe('content');
  await expect(agent.rename(at('made/none'), at('made/x'))).rejects.toMatchObject({ code: 'not_found' });
  await expect(agent.rename(at('made/three/two'), at('made/three'))).rejects.toMatchObject({
    code: 'directory_not_empty',
  });
});

test('the clock is set only by a number of nanoseconds', async () => {
  // An agent that is not PID 1 of a machine leaves the clock of the host alone.
  const before = Date.now();
  await agent.setClock(1n);
  expect(Date.now()).toBeGreaterThanOrEqual(before);
  await expect(agent.setClock(-1n)).rejects.toMatchObject({ code: 'bad_request' });
});

test('errors of file operations name the problem', async () => {
  await expect(agent.readFile(at('none'))).rejects.toMatchObject({ code: 'not_found', status: 404 });
  await expect(agent.readFile(harness.folder)).rejects.toMatchObject({ code: 'is_a_directory', status: 400 });
  await expect(agent.readFile('/dev/null')).rejects.toMatchObject({ code: 'not_a_file', status: 400 });
  await expect(agent.writeFile(harness.folder, Buffer.from('x'))).rejects.toMatchObject({ code: 'is_a_directory' });
  await expect(listed(agent, at('none'))).rejects.toMatchObject({ code: 'not_found' });
  await expect(agent.remove('/', { recursive: true })).rejects.toMatchObject({ code: 'bad_path' });
});

test('an evaluation returns its last expression, and keeps its state', async () => {
  expect(await agent.eval('import math\nx = 20\nprint("hello")\nx * 2')).toMatchObject({
    result: '40',
    stdout: 'hello\n',
    exitCode: 0,
  });
  expect((await agent.eval('x + 1')).result).toBe('21');
  expect((await agent.eval('y = 1')).result).toBeUndefined();
  expect((await agent.eval('None')).result).toBe('None');
  expect((await agent.eval('import os; os.system("echo child")')).stdout).toBe('child\n');
});

test('a Python error is one line, and a traceback with the line of the code', async () => {
  const { error, traceback, exitCode, result } = await agent.eval('def f():\n  return 1 / 0\nf()');
  expect([exitCode, result]).toEqual([1, undefined]);
  expect(error).toBe('ZeroDivisionError: division by zero');
  expect(traceback).toContain('ZeroDivisionError');
  expect(traceback).toContain('return 1 / 0');
  expect(await agent.eval('raise Exception("one\\ntwo")')).toMatchObject({ error: 'Exception: one' });
  expect((await agent.eval('x =')).error).toContain('SyntaxError');
  expect(await agent.eval('import sys; sys.exit(3)')).toMatchObject({ exitCode: 3, stateLost: false });
  expect((await agent.eval('x')).result).toBe('20');
});

const exceptions = [
  ['sys.exit with a tuple', 'import sys; sys.exit((1, "x"))', "SystemExit: (1, 'x')"],
  ['SystemExit in a message', SYSTEM_EXIT_IN_MESSAGE, 'E: (it cannot be printed)'],
  ['SystemExit in its own code', SYSTEM_EXIT_IN_CODE, 'An exception that cannot be described.'],
  ['a SyntaxError without a file', 'raise SyntaxError("boom")', 'SyntaxError: boom'],
  [
    'a SyntaxError of a library',
    'import xml.etree.ElementTree as tree; tree.fromstring("<a>")',
    'xml.etree.ElementTree.ParseError: no element found: line 1, column 3',
  ],
  ['KeyboardInterrupt', 'raise KeyboardInterrupt', 'KeyboardInterrupt'],
  ['GeneratorExit', 'raise GeneratorExit', 'GeneratorExit'],
  ['MemoryError', 'raise MemoryError', 'MemoryError'],
  ['RecursionError', 'def deep(): deep()\ndeep()', 'RecursionError: maximum recursion depth exceeded'],
] as const;

test.each(exceptions)('%s ends an evaluation, and the state is kept', async (_name, code, error) => {
  const failed = await agent.eval(code);
  expect(failed).toMatchObject({ exitCode: 1, stateLost: false });
  expect(failed.error).toContain(error);
  expect((await agent.eval('x')).result).toBe('20');
});

test('a recursion limit that is too low for anything else does not hold for the interpreter itself', async () => {
  await agent.eval('import sys; sys.setrecursionlimit(12)');
  expect((await agent.eval('1 / 0')).error).toBe('ZeroDivisionError: division by zero');
  expect((await agent.eval('limit = sys.getrecursionlimit(); sys.setrecursionlimit(1000); limit')).result).toBe('12');
});

test('a signal handler that raises between two evaluations ends nothing', async () => {
  await agent.eval(RAISING_TIMER);
  // A long answer is written while the timer fires again and again.
  expect((await agent.eval('long = "x" * (1 << 20)')).stateLost).toBe(false);
  expect((await agent.eval('while True: pass')).error).toBe('ValueError: late');
  // The handler may raise in this evaluation too, before it has stopped the timer.
  const stopped = async () =>
    expect((await agent.eval('signal.setitimer(signal.ITIMER_REAL, 0)')).error).toBeUndefined();
  await vi.waitFor(stopped, 10_000);
  expect((await agent.eval('x')).result).toBe('20');
});

test('a process that an evaluation forks ends with it, and only its parent answers', async () => {
  expect((await agent.eval('import os\nchild = os.fork()\n"A"')).result).toBe("'A'");
  expect((await agent.eval('"B"')).result).toBe("'B'");
  expect((await agent.eval('os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])')).result).toBe('0');
  await agent.eval('child = os.fork()\nif child == 0: raise SystemExit(7)');
  expect((await agent.eval('os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])')).result).toBe('7');
});

test('a thread that logs between two evaluations does not wait for the next one', async () => {
  const [done, go] = [at('logged'), at('log-now')];
  await agent.writeFile(done, new Uint8Array());
  // Lines that the thread logs before the first evaluation has ended are that evaluation's output.
  await agent.eval(`
import os, sys, threading, time
def log():
    while not os.path.exists(${JSON.stringify(go)}): time.sleep(0.01)
    for number in range(5000):
        sys.stderr.write("GET / HTTP/1.1 200 %06d ---------------------\\n" % number)
    with open(${JSON.stringify(done)}, "w") as file: file.write("done")
threading.Thread(target=log, daemon=True).start()`);
  await agent.writeFile(go, new Uint8Array());
  await vi.waitFor(() => expect(readFileSync(done, 'utf8')).toBe('done'), 30_000);
  const { stderr, truncated, result } = await agent.eval('"next"');
  expect([truncated, result]).toEqual([true, "'next'"]);
  expect(stderr).toContain('004999');
});

/** Starts an evaluation that runs `begin`, and after its release `end`. Resolves when it has begun. */
async function busyEvaluation(begin = '', end = ''): Promise<{ release(): Promise<EvalResult> }> {
  const [begun, go] = [at('begun'), at('go')];
  await Promise.all([begun, go].map((path) => agent.remove(path)));
  const wait = `open(${JSON.stringify(begun)}, "w").close()\nwhile not os.path.exists(${JSON.stringify(go)}): time.sleep(0.01)`;
  const running = agent.eval(`import os, time\n${begin}\n${wait}\n${end}`);
  await appeared(begun);
  const release = async () => {
    await agent.writeFile(go, new Uint8Array());
    const result = await running;
    expect(result.error).toBeUndefined();
    return result;
  };
  return { release };
}

/** Waits until there is a file at `path`. */
async function appeared(path: string): Promise<void> {
  await vi.waitFor(() => agent.stat(path), 30_000);
}

test('an evaluation whose caller gave up while it waited for its turn is not carried out', async () => {
  await agent.eval('ran = "no"');
  const busy = await busyEvaluation();
  const caller = new AbortController();
  const waiting = agent.eval('ran = "yes"', { signal: caller.signal });
  // The agent takes requests in order: it has the one before this one.
  await agent.ping();
  caller.abort();
  await expect(waiting).rejects.toMatchObject({ code: 'aborted' });
  await busy.release();
  expect((await agent.eval('ran')).result).toBe("'no'");
});

test('an evaluation whose time ends while it waits for its turn is told so, and not carried out', async () => {
  await agent.eval('ran = "no"');
  const busy = await busyEvaluation();
  const waiting = agent.eval('ran = "yes"', { evalTimeoutMs: 50 });
  await expect(waiting).rejects.toMatchObject({ code: 'interpreter_busy', status: 503 });
  await busy.release();
  expect((await agent.eval('ran')).result).toBe("'no'");
});

test('a timeout interrupts an evaluation and keeps the state', async () => {
  const late = await agent.eval('print("so far")\nwhile True: pass', { evalTimeoutMs: 1000 });
  expect(late).toMatchObject({ timedOut: true, stateLost: false, exitCode: 1, stdout: 'so far\n' });
  expect(late.error).toContain('timed out after 1000 ms');
  expect((await agent.eval('x')).result).toBe('20');
});

test('an evaluation that ignores the interrupt is killed, and the next one gets a fresh interpreter', async () => {
  const code = 'import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)';
  expect(await agent.eval(code, { evalTimeoutMs: 200 })).toMatchObject({ timedOut: true, stateLost: true });
  expect((await agent.eval('x')).error).toContain('NameError');
});

test('an interpreter can be stopped, idle or during an evaluation', async () => {
  await agent.eval('z = 1');
  await agent.stopInterpreter();
  expect((await agent.eval('z')).error).toContain('NameError');
  const begun = at('begun-to-stop');
  const endless = agent.eval(`print("in it")\nopen(${JSON.stringify(begun)}, "w").close()\nwhile True: pass`);
  await appeared(begun);
  await agent.stopInterpreter();
  expect(await endless).toMatchObject({ stateLost: true, timedOut: false, stdout: 'in it\n' });
  expect((await agent.eval('2 + 2')).result).toBe('4');
});

test('a crash of the interpreter is reported with the output so far', async () => {
  const crash = await agent.eval('print("last words"); import os; os.kill(os.getpid(), 11)');
  expect(crash).toMatchObject({ stateLost: true, exitCode: 1, stdout: 'last words\n' });
  expect(crash.error).toContain('signal 11');
  expect((await agent.eval('1 + 1')).result).toBe('2');
});

test('an interpreter that ended between two evaluations is told of, and the next one is fresh', async () => {
  const go = at('exit-now');
  const { result: pid } = await agent.eval(`
import os, threading, time
def end():
    while not os.path.exists(${JSON.stringify(go)}): time.sleep(0.01)
    os._exit(3)
threading.Thread(target=end).start()
os.getpid()`);
  await agent.writeFile(go, new Uint8Array());
  await vi.waitFor(() => expect(() => process.kill(Number(pid), 0)).toThrow('ESRCH'), 30_000);
  const lost = await agent.eval('ran = "yes"');
  expect(lost).toMatchObject({ stateLost: true, exitCode: 1 });
  expect(lost.error).toContain('exited with code 3 before the evaluation');
  expect((await agent.eval('ran')).error).toBe("NameError: name 'ran' is not defined");
});

test('output over the limit is truncated', async () => {
  const { truncated, stdout, stdoutDroppedBytes, result } = await agent.eval('print("x" * (3 << 20))\n"end"');
  expect([truncated, stdout.length, stdoutDroppedBytes, result]).toEqual([true, 1 << 20, (2 << 20) + 1, "'end'"]);
  const { truncated: resultIsCut, result: long } = await agent.eval('"x" * (2 << 20)');
  expect([resultIsCut, long?.endsWith('... (cut)')]).toEqual([true, true]);
  expect((await agent.eval('1')).truncated).toBe(false);
});

test('an identity reseeds even a busy interpreter, and a retry does not count as a new generation', async () => {
  const identity = { wallClockUnixNs: 1n, hostname: 'child', entropy: randomBytes(32), machineId: 'ab'.repeat(16) };
  await agent.eval('import random');
  const busy = await busyEvaluation('random.seed(1)', 'random.random()');
  const { generation, reseeded } = await agent.identify(identity);
  expect([generation, reseeded]).toEqual([1, ['python']]);
  expect(await agent.identify(identity)).toMatchObject({ generation: 1 });
  expect((await busy.release()).result).not.toBe('0.13436424411240122');
  expect(await agent.identity()).toEqual({ generation: 1, hostname: 'child', machineId: 'ab'.repeat(16) });
});

test('an unknown language is refused', async () => {
  await expect(agent.eval('1', { language: 'cobol' })).rejects.toMatchObject({ code: 'unknown_language' });
});
