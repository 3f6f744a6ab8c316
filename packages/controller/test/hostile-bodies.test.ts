// Proves that no request body holds the API or is answered as a fault of forkd: bodies that are deep, wide, long or not JSON
// are refused before they are walked, and a real server's event loop goes round all the while.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { limits } from '@forkd/api';
import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../src/deferred.ts';
import { limits as controllerLimits } from '../src/limits.ts';
import { expectError, HttpLab } from './http-support.ts';
import { silent } from './support.ts';

/** Of one round of the event loop. An answer takes about three of them. */
const ROUND_MS_MAX = 80;

const EXEC = '/v1/sandboxes/sb-1/exec';
const CREATE = '/v1/sandboxes';
const many = (n: number, item: (index: number) => string) =>
  Array.from({ length: n }, (_, index) => item(index)).join();
const zeros = (n: number) => many(n, (index) => `"k${index}":0`);
const words = (n: number) => many(n, (index) => `"k${index}":"v"`);
const nested = (open: string, close: string, depth: number) => open.repeat(depth) + close.repeat(depth);
const large = limits.largeJsonBodyBytesMax;

type Case = [what: string, path: string, body: string, status: number, code: string];

const cases: Case[] = [
  ['3.9 million arguments', EXEC, `{"args":[${'0,'.repeat(3_900_000)}0]}`, 400, 'bad_request'],
  ['an environment of 600,000 numbers', EXEC, `{"args":["a"],"env":{${zeros(600_000)}}}`, 400, 'bad_request'],
  ['an environment of 400,000 numbers', EXEC, `{"args":["a"],"env":{${zeros(400_000)}}}`, 400, 'bad_request'],
  ['as many numbers as are read', EXEC, `{"args":["a"],"env":{${zeros(8000)}}}`, 400, 'bad_request'],
  ['as many words as are read', EXEC, `{"args":["a"],"env":{${words(8000)}}}`, 400, 'bad_request'],
  ['labels of 600,000 numbers', CREATE, `{"snapshot_tag":"x","labels":{${zeros(600_000)}}}`, 413, 'too_large'],
  ['labels of 800 words', CREATE, `{"snapshot_tag":"x","labels":{${words(800)}}}`, 400, 'bad_request'],
  ['700,000 fields that nobody knows', CREATE, `{${zeros(700_000)}}`, 413, 'too_large'],
  ['700,000 fields where much may be sent', EXEC, `{${many(700_000, (index) => `"${index}":0`)}}`, 400, 'bad_request'],
  ['a tag nested four million deep', CREATE, `{"snapshot_tag":${nested('[', ']', 4_000_000)}}`, 413, 'too_large'],
  [
    'code nested four million deep',
    '/v1/sandboxes/sb-1/eval',
    `{"code":${nested('[', ']', 4_000_000)}}`,
    400,
    'bad_request',
  ],
  [
    'objects nested a million deep',
    EXEC,
    `{"args":${'{"a":'.repeat(1_000_000)}0${'}'.repeat(1_000_000)}}`,
    400,
    'bad_request',
  ],
  ['an array that is never closed', EXEC, '['.repeat(large - 1), 400, 'bad_request'],
  ['a tag of 60,000 letters', CREATE, `{"snapshot_tag":"${'a'.repeat(60_000)}"}`, 400, 'bad_tag'],
  ['an argument of eight million letters', EXEC, `{"args":["${'é'.repeat(4_000_000 - 20)}"]}`, 400, 'bad_request'],
  [
    'a name of a field of eight million letters',
    EXEC,
    `{"args":["a"],"env":{"${'k'.repeat(8_000_000)}":0}}`,
    400,
    'bad_request',
  ],
  [
    'a number of eight million digits',
    EXEC,
    `{"args":["a"],"timeout_secs":${'9'.repeat(8_000_000)}}`,
    400,
    'bad_request',
  ],
  ['eight million spaces', EXEC, ' '.repeat(large), 400, 'bad_request'],
  ['eight million backslashes', EXEC, `{"args":["${'\\\\'.repeat(4_000_000)}"]}`, 400, 'bad_request'],
  ['a prototype', CREATE, '{"snapshot_tag":"x","__proto__":{"n":1}}', 400, 'bad_request'],
];

/**
 * Measures the processor time of each round of the event loop: what another caller waits for on a machine of its own. Callers
 * are processes of their own for that. Answers the longest round since it was asked last.
 */
function watchRounds(): () => number {
  let longestMs = 0;
  let beganMs = cpuMs();
  let isOver = false;
  const look = (): void => {
    const nowMs = cpuMs();
    longestMs = Math.max(longestMs, nowMs - beganMs);
    beganMs = nowMs;
    if (!isOver) setImmediate(look);
  };
  look();
  onTestFinished(() => void (isOver = true));
  return () => {
    const found = longestMs;
    longestMs = 0;
    beganMs = cpuMs();
    return Math.round(found);
  };
}

/** Measures again while a round is too long: collecting garbage beside other tests takes time once, a body that is walked each time. */
async function leastOf(attempts: number, measure: () => Promise<number>): Promise<number> {
  let leastMs = Infinity;
  for (let attempt = 0; attempt < attempts && leastMs >= ROUND_MS_MAX; attempt += 1) {
    leastMs = Math.min(leastMs, await measure());
  }
  return leastMs;
}

/** Processor time of the thread with the event loop. `process.cpuUsage` counts the collector's own threads as well. */
function cpuMs(): number {
  return Number(readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ', 1)[0]) / 1e6;
}

interface Answer {
  status: number;
  text: string;
}

/** A process that sends bodies to a port and answers what it was answered. It has the bodies before it is told to send. */
class Caller {
  readonly #child = fork(new URL('body-caller.mjs', import.meta.url), { serialization: 'advanced' });

  constructor() {
    onTestFinished(() => void this.#child.kill());
  }

  async load(bodies: readonly string[]): Promise<void> {
    this.#child.send({ bodies });
    await once(this.#child, 'message');
  }

  /** All of them so many times, at once. */
  async send(port: number, path: string, times = 1, method = 'POST'): Promise<Answer[]> {
    this.#child.send({ port, path, times, method });
    const [answers] = (await once(this.#child, 'message')) as [Answer[]];
    return answers;
  }
}

test('no body holds up another caller, or is a fault of forkd', { timeout: 300_000 }, async () => {
  const lab = await HttpLab.serve({ exec: () => ({}) });
  const caller = new Caller();
  const longestMs = watchRounds();
  const found: unknown[] = [];
  for (const [what, path, body, status, code] of cases) {
    await caller.load([body]);
    let answer: Answer | undefined;
    const roundMs = await leastOf(3, async () => {
      longestMs();
      [answer] = await caller.send(lab.port, path);
      return longestMs();
    });
    const told = JSON.parse(answer?.text ?? '') as { code: string; error: string };
    if (answer?.status !== status || told.code !== code || roundMs > ROUND_MS_MAX || told.error.length > 400) {
      found.push({ what, status: answer?.status, error: told.error.slice(0, 100), roundMs });
    }
  }
  expect(found).toEqual([]);
  expect(lab.calls).toEqual([]);
});

test('thirty callers who send such bodies at once hold up nobody', { timeout: 300_000 }, async () => {
  const lab = await HttpLab.serve({ exec: () => ({}) });
  const bodies = [
    `{"args":["${'\\\\'.repeat(4_000_000)}"]}`,
    `{"args":["a"],"env":{${zeros(4000)}},"stdin":"${'A'.repeat(4_000_000)}"}`,
    `{"args":["a"],"env":{${words(8000)}},"novel":"${'é'.repeat(3_000_000)}"}`,
  ];
  const caller = new Caller();
  await caller.load(bodies);
  const longestMs = watchRounds();
  let answers: Answer[] = [];
  const roundMs = await leastOf(3, async () => {
    longestMs();
    answers = await caller.send(lab.port, EXEC, 10);
    return longestMs();
  });
  expect(roundMs).toBeLessThan(ROUND_MS_MAX);
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 400));
});

test('large bodies have a bound together, as long as they are in memory; small ones always pass', async () => {
  const gate = deferred<object>();
  const bounds = { ...controllerLimits.http, bodiesBytesMax: 3_000_000 };
  const lab = await HttpLab.serve({ exec: () => gate.promise }, silent, null, { bounds });
  const body = (bytes: number) => JSON.stringify({ args: ['cat'], stdin: 'A'.repeat(bytes) });
  const first = lab.ask('POST', EXEC, { body: body(2_000_000) });
  await expect.poll(() => lab.calls.length).toBe(1);
  expectError(await lab.ask('POST', EXEC, { body: body(2_000_000) }), 503, 'busy');
  const small = lab.ask('POST', EXEC, { body: body(100) });
  await expect.poll(() => lab.calls.length).toBe(2);
  gate.resolve({});
  expect([(await first).status, (await small).status]).toEqual([200, 200]);
  await expect.poll(async () => (await lab.ask('POST', EXEC, { body: body(2_000_000) })).status).toBe(200);
});

test('a body in chunks of one byte is read as any other', async () => {
  const lab = await HttpLab.serve({ exec: () => ({}) });
  const body = JSON.stringify({ args: ['cat'], stdin: 'A'.repeat(200_000) });
  const socket = connect(lab.port, '127.0.0.1');
  onTestFinished(() => void socket.destroy());
  const head = `POST ${EXEC} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`;
  const chunks = Array.from(body, (byte) => `1\r\n${byte}\r\n`);
  socket.write(`${head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n${chunks.join('')}0\r\n\r\n`);
  const [answer] = (await once(socket, 'data')) as [Buffer];
  expect(answer.toString()).toMatch(/^HTTP\/1.1 200 /);
  expect(lab.calls[0]?.[2]).toMatchObject(JSON.parse(body));
});

test('a body must be UTF-8, and an error shows no letter that a terminal would act on', async () => {
  const lab = await HttpLab.serve();
  const headers = { 'content-type': 'application/json' };
  const latin = Buffer.from('{"args":["caf\xe9"]}', 'latin1');
  expect(expectError(await lab.ask('POST', EXEC, { body: latin, headers }), 400, 'bad_request').error).toContain(
    'UTF-8',
  );
  const tag = '\u001b[31m\u009b\u202e\u2066\ud800';
  const reply = await lab.ask('POST', CREATE, { body: JSON.stringify({ snapshot_tag: tag }) });
  const { error } = expectError(reply, 400, 'bad_tag');
  expect(error).not.toMatch(/[\p{Cc}\p{Cf}\p{Cs}]/u);
});

test('a list of ten thousand holds up nobody', async () => {
  const all = Array.from({ length: 10_000 }, (_, index) => ({ tag: `branch-${index}`, source: 'x'.repeat(400) }));
  const lab = await HttpLab.serve({ listSnapshots: async () => all, listSandboxes: () => all });
  for (const path of ['/v1/snapshots', '/v1/sandboxes']) {
    const caller = new Caller();
    await caller.load(['']);
    const longestMs = watchRounds();
    let answer: Answer | undefined;
    const roundMs = await leastOf(3, async () => {
      longestMs();
      [answer] = await caller.send(lab.port, path, 1, 'GET');
      return longestMs();
    });
    expect(roundMs).toBeLessThan(ROUND_MS_MAX);
    expect(answer?.status).toBe(200);
    expect(JSON.parse(answer?.text ?? '')).toEqual(all);
  }
});
