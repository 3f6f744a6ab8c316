/** Proves that an agent that means harm fails its own calls, with one of a few codes, and takes neither the event loop nor memory with it. */
import { floods, HostileAgent } from '@forkd/testing';
import { expect, onTestFinished, test } from 'vitest';
import { agentErrorCodes, GuestAgent, GuestError } from '../src/index.ts';
import { Intake } from '../src/intake.ts';
import { intake as bounds } from '../src/limits.ts';
import { turns } from '../src/turns.ts';
import { allOf, commands, listed } from './harness.ts';

const MIB = 1024 * 1024;
/** Work in one turn of the event loop, in processor time: a host that is busy with others does not count. */
const TURN_MS_MAX = 150;
const TIMEOUT_MS = 30_000;

const codes: readonly string[] = [
  'guest_disconnected',
  'guest_timeout',
  'bad_response',
  'transfer_broken',
  'agent_failed',
  ...agentErrorCodes,
];

type Call = (agent: GuestAgent, wait: { timeoutMs: number }) => Promise<unknown>;

const identity = {
  entropy: new Uint8Array(32),
  wallClockUnixNs: 1n,
  hostname: 'a',
  machineId: '0'.repeat(32),
};

const calls: Record<string, Call> = {
  ping: (agent, wait) => agent.ping(wait),
  configure: (agent, wait) => agent.configure({}, wait),
  identify: (agent, wait) => agent.identify(identity, wait),
  identity: (agent, wait) => agent.identity(wait),
  refresh: (agent, wait) => agent.refresh(wait),
  run: (agent, wait) => agent.run(['x'], wait),
  start: (agent, wait) => agent.start(['x'], wait),
  list: (agent, wait) => commands(agent, wait),
  get: (agent, wait) => agent.get('c-1', wait),
  attach: async (agent, wait) => (await agent.attach('c-1', wait)).wait(),
  view: async (agent, wait) => {
    for await (const _ of await agent.view('c-1', wait));
  },
  resize: (agent, wait) => agent.resize('c-1', { cols: 80, rows: 24 }, wait),
  stdin: (agent, wait) => agent.writeStdin('c-1', Buffer.from('x'), wait),
  signal: (agent, wait) => agent.signal('c-1', 'TERM', wait),
  forget: (agent, wait) => agent.forget('c-1', wait),
  'read file': async (agent, wait) => allOf((await agent.readFile('/x', wait)).data),
  'write file': (agent, wait) => agent.writeFile('/x', Buffer.from('x'), wait),
  'list directory': (agent, wait) => listed(agent, '/', wait),
  stat: (agent, wait) => agent.stat('/x', wait),
  'make directory': (agent, wait) => agent.makeDir('/x', wait),
  rename: (agent, wait) => agent.rename('/x', '/y', wait),
  watch: async (agent, wait) => {
    for await (const _ of await agent.watch('/x', wait));
  },
  'set clock': (agent, wait) => agent.setClock(1n, wait),
  remove: (agent, wait) => agent.remove('/x', wait),
  eval: (agent, wait) => agent.eval('1', wait),
  'start interpreter': (agent, wait) => agent.startInterpreter('python', wait),
  'stop interpreter': (agent, wait) => agent.stopInterpreter('python', wait),
};

async function connect(name: string): Promise<GuestAgent> {
  const hostile = await HostileAgent.start(name);
  onTestFinished(() => hostile[Symbol.asyncDispose]());
  const agent = await GuestAgent.connect(hostile.socket, { timeoutMs: TIMEOUT_MS });
  onTestFinished(() => agent.close());
  return agent;
}

/** Runs `work`. @returns the longest turn of the event loop meanwhile, in ms of processor time, and the growth of memory. */
async function measured(work: () => Promise<unknown>): Promise<{ turnMs: number; grownBytes: number }> {
  const before = process.memoryUsage.rss();
  let worstUs = 0;
  let peak = before;
  let last = process.cpuUsage();
  let timer: NodeJS.Immediate;
  const look = (): void => {
    const { user, system } = process.cpuUsage(last);
    worstUs = Math.max(worstUs, user + system);
    peak = Math.max(peak, process.memoryUsage.rss());
    last = process.cpuUsage();
    timer = setImmediate(look);
  };
  timer = setImmediate(look);
  try {
    await work();
    await new Promise((resolve) => setImmediate(resolve));
  } finally {
    clearImmediate(timer);
  }
  return { turnMs: worstUs / 1000, grownBytes: peak - before };
}

async function failureOf(call: Promise<unknown>): Promise<GuestError> {
  const error = await call.then(
    (value) => new Error(`the call was answered: ${JSON.stringify(value)?.slice(0, 200)}`),
    (failure: unknown) => failure,
  );
  if (!(error instanceof GuestError)) throw error;
  expect(codes).toContain(error.code);
  expect(error.message.length).toBeLessThan(2048);
  // oxlint-disable-next-line no-control-regex -- They are what must not be there.
  expect(error.message).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202e]/);
  return error;
}

test.each([
  ['endless reply', ['bad_response']],
  ['deep reply', ['bad_response']],
  ['wrong shapes', ['bad_response']],
  ['not json', ['bad_response']],
  ['odd status', ['bad_response']],
  ['large error', ['bad_response', 'transfer_broken']],
  ['large headers', ['bad_response', 'transfer_broken', 'guest_disconnected', 'agent_failed']],
  ['false code', ['agent_failed']],
  ['false loss', ['agent_failed']],
])('every call to an agent with the fault "%s" fails with its own code', async (name, expected) => {
  const agent = await connect(name);
  const answered: string[] = [];
  const figures = await measured(async () => {
    for (const [what, call] of Object.entries(calls)) {
      const wait = { timeoutMs: TIMEOUT_MS };
      // A route that answers nothing may answer anything short.
      const error = await failureOf(call(agent, wait)).catch((reason: unknown) => {
        if (!String(reason).includes('the call was answered')) throw reason;
        answered.push(what);
        return undefined;
      });
      if (error !== undefined) expect([what, expected]).toEqual([what, expect.arrayContaining([error.code])]);
    }
  });
  const nothing = [
    'configure',
    'resize',
    'stdin',
    'signal',
    'forget',
    'write file',
    'make directory',
    'rename',
    'set clock',
    'remove',
    'start interpreter',
    'stop interpreter',
  ];
  expect(nothing).toEqual(expect.arrayContaining(answered));
  expect(figures.turnMs).toBeLessThan(TURN_MS_MAX);
  expect(figures.grownBytes).toBeLessThan(256 * MIB);
});

test.each(['silent', 'silent body'])('every call to an agent with the fault "%s" has a deadline', async (name) => {
  const agent = await connect(name);
  for (const [what, call] of Object.entries(calls)) {
    const error = await failureOf(call(agent, { timeoutMs: 100 }));
    // The headers of a file are wrong before its body is late.
    const expected = what === 'read file' && name === 'silent body' ? 'bad_response' : 'guest_timeout';
    expect([what, error.code]).toEqual([what, expected]);
  }
});

test.each([
  ['large listing', 'bad_response'],
  ['many entries', 'too_many_entries'],
  ['odd names', 'bad_response'],
])('a listing of an agent with the fault "%s" is refused', async (name, code) => {
  const agent = await connect(name);
  const figures = await measured(async () => {
    expect((await failureOf(listed(agent, '/'))).code).toBe(code);
  });
  expect(figures.turnMs).toBeLessThan(TURN_MS_MAX);
  expect(figures.grownBytes).toBeLessThan(256 * MIB);
});

test.each([
  ['same gap', 'bad_response'],
  ['output with a hole', 'bad_response'],
  ['output after the exit', 'bad_response'],
  ['large frame', 'bad_response'],
  ['endless gaps', 'guest_timeout'],
  ['tiny output', 'guest_timeout'],
  ['endless output', 'guest_timeout'],
])('a run on an agent with the fault "%s" fails at little cost', async (name, code) => {
  const agent = await connect(name);
  const figures = await measured(async () => {
    expect((await failureOf(agent.run(['x'], { timeoutMs: 3000 }))).code).toBe(code);
  });
  expect(figures.turnMs).toBeLessThan(TURN_MS_MAX);
  expect(figures.grownBytes).toBeLessThan(256 * MIB);
});

test.each([
  ['output before a screen', 'bad_response'],
  ['screen that goes back', 'bad_response'],
  ['screen with a hole', 'bad_response'],
  ['empty screen', 'bad_response'],
  ['endless screens', 'guest_timeout'],
])('a view of a terminal on an agent with the fault "%s" fails at little cost', async (name, code) => {
  const agent = await connect(name);
  const figures = await measured(async () => {
    const viewing = async (): Promise<void> => {
      for await (const events of await agent.view('c-1', { timeoutMs: 3000 })) {
        // `expect` would take longer than the events.
        if (events.some(({ data }) => data.length === 0)) throw new Error('an event without data');
        await turns.next();
      }
    };
    expect((await failureOf(viewing())).code).toBe(code);
  });
  expect(figures.turnMs).toBeLessThan(TURN_MS_MAX);
  expect(figures.grownBytes).toBeLessThan(256 * MIB);
});

test('output over the limit is counted, not kept', async () => {
  const agent = await connect('large output');
  const result = await agent.run(['x'], { keepBytesMax: MIB, timeoutMs: TIMEOUT_MS });
  expect([result.stdout.length, result.stderr.length]).toEqual([MIB, MIB]);
  expect(result).toMatchObject({ truncated: true, stdoutDroppedBytes: 19 * MIB, stderrDroppedBytes: 19 * MIB });
});

test('many tiny outputs are delivered in turns of the event loop', async () => {
  const agent = await connect('tiny output');
  const figures = await measured(async () => {
    let count = 0;
    for await (const event of await agent.exec(['x'])) {
      if (event.stream === 'gap' || event.data.length !== 1) throw new Error('another event was expected');
      count += 1;
      if (count === 200_000) break;
    }
  });
  expect(figures.turnMs).toBeLessThan(TURN_MS_MAX);
});

test.each(['odd mode', 'smuggled reply'])('a file of an agent with the fault "%s" is refused', async (name) => {
  const agent = await connect(name);
  const error = await failureOf(calls['read file']!(agent, { timeoutMs: TIMEOUT_MS }));
  expect(['bad_response', 'transfer_broken']).toContain(error.code);
});

test.each([
  ['odd changes', 'bad_response'],
  ['false end', 'agent_failed'],
])('a watch on an agent with the fault "%s" fails', async (name, code) => {
  const agent = await connect(name);
  expect((await failureOf(calls['watch']!(agent, { timeoutMs: TIMEOUT_MS }))).code).toBe(code);
});

test('changes without end are delivered in turns of the event loop', async () => {
  const agent = await connect('endless changes');
  const figures = await measured(async () => {
    let count = 0;
    for await (const { type } of await agent.watch('/x')) {
      if (type !== 'modify') throw new Error('another change was expected');
      count += 1;
      if (count === 100_000) break;
    }
  });
  expect(figures.turnMs).toBeLessThan(TURN_MS_MAX);
  expect(figures.grownBytes).toBeLessThan(256 * MIB);
});

test('an evaluation of the largest size is parsed in pieces', async () => {
  const agent = await connect('large evaluation');
  const figures = await measured(async () => {
    const result = await agent.eval('1', { timeoutMs: TIMEOUT_MS });
    expect([result.result?.length, result.stdout.length, result.truncated]).toEqual([MIB, MIB, true]);
  });
  expect(figures.turnMs).toBeLessThan(TURN_MS_MAX);
});

test.each(floods)('a flood of %s is cut off soon, while another guest is served', async (name) => {
  const other = await connect('honest');
  const hostile = await HostileAgent.start(name);
  onTestFinished(() => hostile[Symbol.asyncDispose]());
  const flooded = GuestAgent.connect(hostile.socket, { timeoutMs: TIMEOUT_MS });
  const over = { isOver: false };
  const ended = flooded
    .then(({ closed }) => closed)
    .catch((error: unknown) => expect(error).toBeInstanceOf(GuestError));
  void ended.then(() => (over.isOver = true));
  onTestFinished(() => flooded.then((agent) => agent.close()).catch(() => undefined));
  const figures = await measured(async () => {
    const until = Date.now() + 10_000;
    while (!over.isOver && Date.now() < until) await other.ping({ timeoutMs: TIMEOUT_MS });
  });
  expect(figures.turnMs).toBeLessThan(TURN_MS_MAX);
  expect(figures.grownBytes).toBeLessThan(128 * MIB);
  // Node leaves a connection standing that has said too many settings. It is not read, and its calls have their deadlines.
  if (!over.isOver)
    await expect((await flooded).ping({ timeoutMs: 200 })).rejects.toMatchObject({ code: 'guest_timeout' });
  // The connection takes no more of the processor, once what had come before is dealt with.
  const busyMs = async () => {
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000;
  };
  await expect.poll(busyMs, { timeout: 20_000 }).toBeLessThan(200);
});

test('a guest gets a bounded share of a turn and of a second, and unrequested data is bounded', () => {
  let nowMs = 0;
  const own = new Intake(() => nowMs);
  // The guest has its share of a turn, and then others have theirs.
  expect(own.take(bounds.turnBytes - 1)).toBeUndefined();
  expect(own.take(1)).toBe(0);
  own.asked(bounds.turnBytes);
  // As much as it likes for a moment, then so many bytes a second.
  let read = bounds.turnBytes;
  for (; nowMs < 10_000; read += bounds.turnBytes) {
    nowMs += own.take(bounds.turnBytes) ?? 0;
    own.asked(bounds.turnBytes);
  }
  expect(read).toBeLessThan(10 * bounds.bytesPerSec + bounds.burstBytes + 2 * bounds.turnBytes);
  expect(read).toBeGreaterThan(9 * bounds.bytesPerSec);
  expect(own.isFlooded).toBe(false);
  for (let sent = 0; sent <= bounds.unaskedBytesMax; sent += bounds.turnBytes) own.take(bounds.turnBytes);
  expect(own.isFlooded).toBe(true);
  // The guest is forgiven at a rate.
  nowMs += 10_000;
  own.take(1);
  expect(own.isFlooded).toBe(false);
});
