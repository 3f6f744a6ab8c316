// oxlint-disable vitest/no-standalone-expect -- what is called here is called by tests.

import { ReplyChecker } from '@forkd/testing';
import { expect } from 'vitest';

/** A controller that is to speak the wire. */
export interface Target {
  url: string;
  token: string;
  /** Branches at a time, as it was told. */
  branchConcurrency: number;
  /** The body of `POST /v1/snapshots` without the tag, for the smallest guest that the controller can make. */
  template: object;
  /** The same body for a guest with a warmed Python. */
  python: object;
  /** Features that its guests cannot show, with the reason. */
  withheld?: Partial<Record<Withheld, string>>;
}

/** Features that some guests cannot show: a warmed Python, read-only files of a machine of their own, or a kernel's generator. */
export type Withheld = 'python' | 'permissions' | 'random';

export interface Answer {
  status: number;
  headers: Headers;
  // oxlint-disable-next-line typescript/no-explicit-any -- what it is is what the tests find out.
  body: any;
  text: string;
}

interface AskOptions {
  headers?: Record<string, string>;
  token?: string | null;
  raw?: string | Uint8Array;
}

/** Speaks to a controller without any client in between, and holds each reply against the API document. */
export class Caller {
  readonly target: Target;
  readonly checker = new ReplyChecker();
  /** The reason for each missing capability of the engine, as the controller reports it. */
  readonly unable = new Map<string, string>();

  constructor(target: Target) {
    this.target = target;
  }

  /** Asks what the engine can do: what it cannot do must be refused. */
  async learn(): Promise<void> {
    const { engine } = await this.expectReply(200, 'GET /v1/host');
    for (const { id, ok, why } of engine.capabilities) if (ok !== true) this.unable.set(id, why);
  }

  /** `route` is a method and a path. */
  async ask(route: string, json?: unknown, options: AskOptions = {}): Promise<Answer> {
    const [method = '', url = ''] = route.split(' ');
    const { token = this.target.token, raw } = options;
    const reply = await fetch(this.target.url + url, {
      method,
      headers: {
        ...(token !== null && { authorization: `Bearer ${token}` }),
        ...(json !== undefined && { 'content-type': 'application/json' }),
        ...options.headers,
      },
      ...(json !== undefined && { body: JSON.stringify(json) }),
      ...(raw !== undefined && { body: raw }),
    });
    const text = await reply.text();
    this.checker.check({ method, path: url.split('?')[0] ?? '' }, reply, text);
    const isJson = reply.headers.get('content-type')?.startsWith('application/json') === true;
    return { status: reply.status, headers: reply.headers, body: isJson ? JSON.parse(text) : undefined, text };
  }

  /** Asks for what must work. */
  async expectReply(status: number, route: string, json?: unknown, options?: AskOptions) {
    const answer = await this.ask(route, json, options);
    expect([route, answer.status, answer.status < 400 ? '' : answer.text]).toEqual([route, status, '']);
    return answer.body;
  }

  /** Asks for what must be refused, in a sentence that has all of `words` in it. */
  async expectRefusal(
    status: number,
    code: string,
    words: string[],
    route: string,
    json?: unknown,
    options?: AskOptions,
  ) {
    const answer = await this.ask(route, json, options);
    expect([route, answer.status, answer.body?.code]).toEqual([route, status, code]);
    expect(Object.keys(answer.body)).toEqual(expect.arrayContaining(['error', 'code', 'hint', 'request_id']));
    for (const word of words) expect(answer.body.error).toContain(word);
    return answer.body;
  }

  /** Forks one sandbox of the template that all tests share. */
  async fork(tag = 'base'): Promise<string> {
    const [sandbox] = await this.expectReply(201, 'POST /v1/sandboxes', { snapshot_tag: tag });
    return sandbox.id;
  }
}

/** An optional field is absent on the wire, never null. */
export function expectNoNulls(body: object): void {
  expect(Object.entries(body).filter(([, value]) => value === null)).toEqual([]);
}

export function expectAbsent(body: object, ...fields: string[]): void {
  expect(fields.filter((field) => field in body)).toEqual([]);
}

export const unixNow = () => Math.floor(Date.now() / 1000);
