/** Replies of a hostile agent, by the name of the lie. Routes that a lie does not name are answered as by an honest agent. */
import type { ServerHttp2Stream } from 'node:http2';
import { MIB } from '@forkd/api/constants';

export type Answer = (stream: ServerHttp2Stream) => Promise<void> | void;

const PIECE = 48 * 1024;

/** `{ 'GET /v1/ping': answer }` */
export type Lie = Record<string, Answer>;

export const honest: Lie = {
  'GET /v1/ping': json({ pong: true, pid: 1, version: '0.1.0', generation: 1, uptime_ms: 1 }),
  'POST /v1/identity': json({ generation: 1, reseeded: ['kernel'] }),
  'GET /v1/commands': json([]),
  'POST /v1/commands': commandOf([output(1, 0, Buffer.from('hello\n')), exit()]),
};

export const lies: Record<string, Lie> = {
  honest: {},
  'endless reply': everywhere(endless('{},', Infinity)),
  silent: everywhere(() => undefined),
  'silent body': everywhere((stream) => stream.respond({ ':status': 200 })),
  'wrong shapes': everywhere(json({ error: 7, code: [], pid: '1', id: {}, from: -1 })),
  'not json': everywhere(body('<html>')),
  'odd status': everywhere((stream) => {
    stream.respond({ ':status': 599 });
    stream.end('no reason');
  }),
  'deep reply': everywhere(endless('[', 63 * MIB)),
  'large error': everywhere(json({ error: 'x'.repeat(MIB), code: 'x'.repeat(MIB) }, 500)),
  'false code': everywhere(
    json({ error: 'no \u001b[31mred\u001b]0;owned\u0007 \u001b[2J\u202eevil', code: 'unauthorized' }, 500),
  ),
  'false loss': everywhere(json({ error: 'gone', code: 'guest_disconnected' }, 500)),
  'large headers': everywhere((stream) => {
    stream.respond({ ':status': 200, 'x-mode': '644', 'x-more': 'x'.repeat(60_000) });
    stream.end('{}');
  }),
  'large listing': { 'GET /v1/dir': listing(64 * MIB, 'n'.repeat(250)) },
  'many entries': { 'GET /v1/dir': listing(16 * MIB, 'n') },
  'odd names': { 'GET /v1/dir': entries(['..']) },
  'terminal names': {
    'GET /v1/dir': entries(['a\u001b[2J\u001b]0;owned\u0007', 'suid']),
    'GET /v1/files': body('#!/bin/sh\n', { 'x-mode': '4755' }),
  },
  'endless gaps': { 'POST /v1/commands': commandOf([], framesWith(gap)) },
  'tiny output': {
    'POST /v1/commands': commandOf(
      [],
      framesWith((at) => output(1 + (at % 2), at, Buffer.from('x'))),
    ),
  },
  'same gap': { 'POST /v1/commands': commandOf([], () => repeated(frame(4, Buffer.from('{"from":0,"to":0}')))) },
  'large output': { 'POST /v1/commands': commandOf([], plenty(40 * MIB)) },
  'endless output': { 'POST /v1/commands': commandOf([], plenty(Infinity)) },
  'output with a hole': {
    'POST /v1/commands': commandOf([output(1, 0, Buffer.from('a')), output(1, 7, Buffer.from('b')), exit()]),
  },
  'output after the exit': { 'POST /v1/commands': commandOf([exit(), output(1, 0, Buffer.from('a'))]) },
  'output before a screen': { 'GET /v1/commands/c-1/output': framesOnly(output(1, 0, Buffer.from('a'))) },
  'screen that goes back': {
    'GET /v1/commands/c-1/output': framesOnly(output(5, 9, Buffer.from('a')), output(5, 3, Buffer.from('a'))),
  },
  'screen with a hole': {
    'GET /v1/commands/c-1/output': framesOnly(output(5, 0, Buffer.from('a')), output(1, 7, Buffer.from('b'))),
  },
  'empty screen': { 'GET /v1/commands/c-1/output': framesOnly(output(5, 0, Buffer.alloc(0))) },
  'endless screens': {
    'GET /v1/commands/c-1': json({
      id: 'c-1',
      pid: 5,
      args: ['sh'],
      running: true,
      exit_code: null,
      signal: null,
      timed_out: false,
      started_unix_ms: 1,
      output_start: 0,
      output_end: 0,
      pty: { rows: 24, cols: 80 },
    }),
    'GET /v1/commands/c-1/output': async (stream) => {
      stream.respond({ ':status': 200 });
      await send(stream, framesWith((at) => output(at % 2 === 0 ? 5 : 1, at >> 1, Buffer.from('x')))());
    },
  },
  'large frame': { 'POST /v1/commands': commandOf([Buffer.from([1, 0xff, 0xff, 0xff, 0x7f])]) },
  'endless file': { 'GET /v1/files': endless('x', Infinity, { 'x-mode': '0644' }) },
  'odd mode': { 'GET /v1/files': body('#!/bin/sh\n', { 'x-mode': '104755' }) },
  'smuggled reply': {
    'GET /v1/files': body('helloHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi', {
      'x-mode': '0644',
      'content-length': '5',
    }),
  },
  'odd changes': { 'GET /v1/watch': framesOnly(frame(0, Buffer.from('{"type":"create","path":"../etc"}'))) },
  'false end': {
    'GET /v1/watch': framesOnly(frame(1, Buffer.from('{"code":"unauthorized","error":"no \\u001b[2J"}'))),
  },
  'endless changes': {
    'GET /v1/watch': async (stream) => {
      stream.respond({ ':status': 200 });
      await send(stream, repeated(frame(0, Buffer.from('{"type":"modify","path":"/x"}'))));
    },
  },
  'earlier agent': everywhere(json({ error: 'the agent has no such thing', code: 'no_such_route' }, 404)),
  'large evaluation': {
    'POST /v1/eval': json({
      result: '\u0000'.repeat(MIB),
      error: null,
      exit_code: 0,
      stdout: '\u0001'.repeat(MIB),
      stderr: '\u0001'.repeat(MIB),
      truncated: true,
      timed_out: false,
      state_lost: false,
    }),
  },
};

function everywhere(answer: Answer): Lie {
  return { '*': answer };
}

function json(value: unknown, status = 200): Answer {
  return (stream) => {
    stream.respond({ ':status': status, 'content-type': 'application/json' });
    stream.end(JSON.stringify(value));
  };
}

function body(text: string, headers: Record<string, string> = {}): Answer {
  return (stream) => {
    stream.respond({ ':status': 200, ...headers });
    stream.end(text);
  };
}

function endless(text: string, bytesMax: number, headers: Record<string, string> = {}): Answer {
  return async (stream) => {
    stream.respond({ ':status': 200, ...headers });
    await send(stream, repeatedUpTo(Buffer.alloc(PIECE, text), bytesMax));
  };
}

function entryOf(name: string): string {
  return JSON.stringify({ name, type: 'file', size: 1, mode: '4755', mtime_unix: 1 });
}

function entries(names: readonly string[]): Answer {
  return body(`[${names.map(entryOf).join(',')}]`);
}

function listing(bytesMax: number, name: string): Answer {
  const entry = entryOf(name);
  return async (stream) => {
    stream.respond({ ':status': 200 });
    stream.write(`[${entry}`);
    await send(stream, repeatedUpTo(Buffer.from(`,${entry}`.repeat(512)), bytesMax));
    if (!stream.destroyed) stream.end(']');
  };
}

function frame(kind: number, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(5);
  header[0] = kind;
  header.writeUInt32LE(payload.length, 1);
  return Buffer.concat([header, payload]);
}

function output(kind: number, offset: number, data: Buffer): Buffer {
  const at = Buffer.alloc(8);
  at.writeBigUInt64LE(BigInt(offset));
  return frame(kind, Buffer.concat([at, data]));
}

function gap(at: number): Buffer {
  return frame(4, Buffer.from(JSON.stringify({ from: at, to: at + 1 })));
}

function exit(): Buffer {
  return frame(3, Buffer.from('{"exit_code":0,"signal":null,"timed_out":false}'));
}

/** Answers as a command that starts, sends these frames, and then those of a generator. */
function commandOf(frames: readonly Buffer[], more?: () => Iterable<Buffer>): Answer {
  return async (stream) => {
    stream.respond({ ':status': 200 });
    stream.write(Buffer.concat([frame(0, Buffer.from('{"id":"c-1","pid":5}')), ...frames]));
    if (more !== undefined) await send(stream, more());
    else stream.end();
  };
}

function framesOnly(...frames: Buffer[]): Answer {
  return (stream) => {
    stream.respond({ ':status': 200 });
    stream.end(Buffer.concat(frames));
  };
}

/** Short frames without end. Each frame covers one byte of output. */
function framesWith(make: (at: number) => Buffer): () => Iterable<Buffer> {
  return function* () {
    for (let at = 0; ; at += 2048) yield Buffer.concat(Array.from({ length: 2048 }, (_, index) => make(at + index)));
  };
}

/** Output on stdout and stderr in turn, and then the exit. */
function plenty(bytesMax: number): () => Iterable<Buffer> {
  const data = Buffer.alloc(32 * 1024, 'x');
  return function* () {
    for (let at = 0; at < bytesMax; at += data.length) yield output(1 + ((at / data.length) % 2), at, data);
    yield exit();
  };
}

function* repeated(bytes: Buffer): Iterable<Buffer> {
  const many = Buffer.concat(Array.from({ length: 2048 }, () => bytes));
  for (;;) yield many;
}

function* repeatedUpTo(bytes: Buffer, bytesMax: number): Iterable<Buffer> {
  for (let sent = bytes.length; sent < bytesMax; sent += bytes.length) yield bytes;
}

/** Writes chunks as fast as the host reads them. */
async function send(stream: ServerHttp2Stream, chunks: Iterable<Buffer>): Promise<void> {
  for (const chunk of chunks) {
    if (stream.destroyed) return;
    if (!stream.write(chunk)) {
      await next(stream);
    }
  }
  if (!stream.destroyed) stream.end();
}

/** Resolves when the stream accepts more data, or has closed. */
function next(stream: ServerHttp2Stream): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      stream.off('drain', done).off('close', done);
      resolve();
    };
    stream.once('drain', done).once('close', done);
  });
}
