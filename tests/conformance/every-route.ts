import { once } from 'node:events';
import { connect } from 'node:net';
import type { DescribedOperation } from '@forkd/testing';
import { expect, test } from 'vitest';
import type { Caller } from './caller.ts';

const REPLY_TIMEOUT_MS = 40_000;
/** The status of a request whose headers do not end in time. */
export const HEADERS_LATE = 408;

interface RouteStatus {
  method: string;
  path: string;
  status: number;
}

/** Query and body that make a request of a route valid, except that its subject does not exist. */
export const NEEDS: Record<string, { query?: string; json?: object }> = {
  exec: { json: { args: ['true'] } },
  eval: { json: { code: '1' } },
  startCommand: { json: { args: ['true'] } },
  signalCommand: { json: { signal: 'KILL' } },
  resizePty: { json: { cols: 80, rows: 24 } },
  readFile: { query: '?path=/none' },
  writeFile: { query: '?path=/tmp/none' },
  deleteFile: { query: '?path=/none' },
  listDir: { query: '?path=/none' },
  makeDir: { query: '?path=/none' },
  statFile: { query: '?path=/none' },
  watchFiles: { query: '?path=/none' },
  renameFile: { json: { from: '/none', to: '/other' } },
  compactSnapshot: { json: { to: 'flat' } },
  setNetwork: { json: {} },
  createPortUrl: { json: { port: 80 } },
};

/** The path of a route whose subject does not exist, and is otherwise valid. */
export function pathOfNone(template: string): string {
  return template.replace('{port}', '80').replaceAll(/\{[a-z]+\}/g, 'none');
}

/** Routes about a thing that answer on the unix socket only. */
const SOCKET_ONLY = ['exportSnapshot', 'importSnapshot'];

const LONG = 'x'.repeat(20_000);
const JSON_TYPE = 'content-type: application/json\r\n';

/** Wrong requests by the status of their refusal: the text after the path, and the text after the request line. */
const WRONGS: Record<number, { query?: string; host?: false; token?: false; rest: string }> = {
  400: { host: false, rest: '\r\n' },
  401: { token: false, rest: '\r\n' },
  403: { rest: 'origin: http://elsewhere.example\r\n\r\n' },
  // No header ever ends.
  [HEADERS_LATE]: { rest: '' },
  413: { rest: `${JSON_TYPE}content-length: 999999999\r\n\r\n` },
  414: { query: `?q=${LONG.slice(0, 9000)}`, rest: '\r\n' },
  415: { rest: 'content-type: text/plain\r\ncontent-length: 2\r\n\r\n{}' },
  431: { rest: `x-long: ${LONG}\r\n\r\n` },
};

/** Sends a wrong request to each route that the document gives this refusal. Resolves with the statuses that are not it. */
export async function refuseOnEveryRoute(caller: Caller, status: number): Promise<RouteStatus[]> {
  const { query = '', host, token, rest } = WRONGS[status] ?? expect.fail(`no request is refused with ${status}`);
  const having = caller.checker.operations().filter(({ statuses }) => statuses.includes(status));
  expect(having.length).toBeGreaterThan(5);
  const replies = having.map(async ({ method, template }) => {
    const path = pathOfNone(template);
    const head = [
      `${method} ${path}${query} HTTP/1.1`,
      ...(host === false ? [] : ['host: localhost']),
      ...(token === false ? [] : [`authorization: Bearer ${caller.target.token}`]),
    ];
    const reply = await sendRaw(caller.target.url, `${head.join('\r\n')}\r\n${rest}`);
    caller.checker.check({ method, path }, reply, reply.text);
    return { method, path, status: reply.status };
  });
  return (await Promise.all(replies)).filter((reply) => reply.status !== status);
}

/** Refusals that are the same on every route. Each route is asked for each refusal that the document gives it. */
export function everyRoute(caller: () => Caller): void {
  test.each(
    Object.keys(WRONGS)
      .map(Number)
      .filter((status) => status !== HEADERS_LATE),
  )('answers %i as documented', async (status) => {
    expect(await refuseOnEveryRoute(caller(), status)).toEqual([]);
  });

  test('answers 404 with the name of a thing that does not exist', async () => {
    for (const { id, method, template } of caller().checker.operations().filter(isAboutThing)) {
      const { query = '', json: body } = NEEDS[id] ?? {};
      const reply = await caller().ask(`${method} ${pathOfNone(template)}${query}`, body);
      expect([id, reply.status, reply.body]).toEqual([
        id,
        404,
        expect.objectContaining({ error: expect.stringContaining("'none'") }),
      ]);
    }
  });

  test('answers 405 with the methods that the path takes', async () => {
    for (const template of new Set(
      caller()
        .checker.operations()
        .map((operation) => operation.template),
    )) {
      const path = pathOfNone(template);
      const answer = await caller().ask(`OPTIONS ${path}`);
      const here = caller()
        .checker.operations()
        .filter((operation) => operation.template === template);
      expect([path, answer.status, answer.body.code]).toEqual([path, 405, 'method_not_allowed']);
      const allowed = answer.headers.get('allow')?.split(', ') ?? [];
      expect(allowed).toEqual(expect.arrayContaining(here.map(({ method }) => method)));
    }
  });
}

/** Whether an operation is about a thing. Operations of the unix socket refuse other callers first. */
function isAboutThing({ id, template, statuses }: DescribedOperation): boolean {
  return template.includes('{') && statuses.includes(404) && !SOCKET_ONLY.includes(id);
}

/** Sends bytes as they are, and reads one reply. */
async function sendRaw(url: string, bytes: string) {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  try {
    let text = '';
    let whole: RegExpExecArray | null = null;
    const isWhole = new Promise<void>((resolve, reject) => {
      socket.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
        whole = /^HTTP\/1\.1 (\d+) .*?\r\n(.*?)\r\n\r\n(.*)$/s.exec(text);
        const length = Number(/^content-length: (\d+)$/im.exec(whole?.[2] ?? '')?.[1] ?? NaN);
        if (whole !== null && Buffer.byteLength(whole[3] ?? '') >= length) resolve();
      });
      socket.once('error', reject).once('close', () => reject(new Error(`closed after ${JSON.stringify(text)}`)));
      AbortSignal.timeout(REPLY_TIMEOUT_MS).addEventListener('abort', () =>
        reject(new Error(`no reply to ${bytes.slice(0, 100)}`)),
      );
    });
    await once(socket, 'connect');
    socket.write(bytes);
    await isWhole;
    const [, status, headers = '', body = ''] = whole ?? [];
    const pairs = headers.split('\r\n').map((line) => line.split(/: (.*)/s).slice(0, 2) as [string, string]);
    return { status: Number(status), headers: new Headers(pairs), text: body };
  } finally {
    socket.destroy();
  }
}
