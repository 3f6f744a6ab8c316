import { once } from 'node:events';
import { connect } from 'node:net';
import { type DescribedOperation } from '@forkd/testing';
import { expect, it } from 'vitest';
import type { Caller } from './caller.ts';

const REPLY_TIMEOUT_MS = 40_000;

/** What a route needs besides its path, so that nothing is wrong but that what it is about is not there. */
export const NEEDS: Record<string, { query?: string; json?: object }> = {
  exec: { json: { args: ['true'] } },
  eval: { json: { code: '1' } },
  startCommand: { json: { args: ['true'] } },
  signalCommand: { json: { signal: 'KILL' } },
  readFile: { query: '?path=/none' },
  writeFile: { query: '?path=/tmp/none' },
  deleteFile: { query: '?path=/none' },
  listDir: { query: '?path=/none' },
  compactSnapshot: { json: { to: 'flat' } },
};

/** Of those that are about a thing. */
const SOCKET_ONLY = ['exportSnapshot', 'importSnapshot'];

/** What every route refuses in the same way, each asked for each refusal that the document has of it. */
export function everyRoute(caller: () => Caller): void {
  const long = 'x'.repeat(20_000);
  const json = 'content-type: application/json\r\n';
  // By status: what follows the path, and what follows the line of the request.
  const wrongs: Record<number, { query?: string; host?: false; token?: false; rest: string }> = {
    400: { host: false, rest: '\r\n' },
    401: { token: false, rest: '\r\n' },
    // No header ever ends.
    408: { rest: '' },
    413: { rest: `${json}content-length: 999999999\r\n\r\n` },
    414: { query: `?q=${long.slice(0, 9000)}`, rest: '\r\n' },
    415: { rest: 'content-type: text/plain\r\ncontent-length: 2\r\n\r\n{}' },
    431: { rest: `x-long: ${long}\r\n\r\n` },
  };

  for (const [status, { query = '', host, token, rest }] of Object.entries(wrongs)) {
    it(`${status} of all routes that have it`, async () => {
      const having = caller()
        .checker.operations()
        .filter(({ statuses }) => statuses.includes(Number(status)));
      const replies = having.map(async ({ method, template }) => {
        const path = template.replaceAll(/\{[a-z]+\}/g, 'none');
        const head = [
          `${method} ${path}${query} HTTP/1.1`,
          ...(host === false ? [] : ['host: controller']),
          ...(token === false ? [] : [`authorization: Bearer ${caller().target.token}`]),
        ];
        const reply = await sendRaw(caller().target.url, `${head.join('\r\n')}\r\n${rest}`);
        caller().checker.check({ method, path }, reply, reply.text);
        return [method, path, reply.status];
      });
      const expected = having.map(({ method, template }) => [
        method,
        template.replaceAll(/\{[a-z]+\}/g, 'none'),
        Number(status),
      ]);
      expect(having.length).toBeGreaterThan(5);
      expect(await Promise.all(replies)).toEqual(expected);
    });
  }

  it('404 of all routes about a thing that is not there, named', async () => {
    for (const { id, method, template } of caller().checker.operations().filter(isAboutThing)) {
      const { query = '', json: body } = NEEDS[id] ?? {};
      const reply = await caller().ask(`${method} ${template.replaceAll(/\{[a-z]+\}/g, 'none')}${query}`, body);
      expect([id, reply.status, reply.body]).toEqual([
        id,
        404,
        expect.objectContaining({ error: expect.stringContaining("'none'") }),
      ]);
    }
  });

  it('405 names the methods that a path takes', async () => {
    for (const template of new Set(
      caller()
        .checker.operations()
        .map((operation) => operation.template),
    )) {
      const path = template.replaceAll(/\{[a-z]+\}/g, 'none');
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

/** Those that are answered on the unix socket only say so first. */
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
