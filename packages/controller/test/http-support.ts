import { randomBytes } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { errorRegistry, isErrorCode } from '@forkd/api';
import { freePort } from '@forkd/testing';
import type { Logger } from 'pino';
import { expect, onTestFinished } from 'vitest';
import type { Backend, Ingress } from '../src/http/app-parts.ts';
import { PortHosts } from '../src/http/ports/hosts.ts';
import { PortKey } from '../src/http/ports/keys.ts';
import { HttpServers } from '../src/http/servers.ts';
import type { Tokens } from '../src/http/tokens.ts';
import { HostNames } from '../src/http/web-guard.ts';
import { limits } from '../src/limits.ts';
import { Metrics } from '../src/observe/metrics.ts';
import type { Run } from '../src/operations/host.ts';
import { scratch, silent } from './support.ts';

export interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

/** Answers of operations by their name, such as `getSandbox`. They take what the operation takes after the host. */
export type Answers = Record<string, (...args: never[]) => unknown>;

/** A real server on a real unix socket and port, over operations that only record what they are asked. */
export class HttpLab {
  /** The arguments of each operation, without signals and functions. */
  readonly calls: unknown[][] = [];
  readonly socket: string;
  readonly port: number;
  readonly servers: HttpServers;

  private constructor(socket: string, port: number, answers: Answers, ingress: Ingress) {
    this.socket = socket;
    this.port = port;
    this.servers = new HttpServers({ run: stub(this.calls, answers), replies }, ingress);
  }

  /** Serves until the test is over. What is not among `answers` answers nothing. */
  static async serve(
    answers: Answers = {},
    log: Logger = silent,
    tokens: Tokens | null = null,
    more: Partial<Ingress> = {},
  ): Promise<HttpLab> {
    const port = await freePort();
    const lab = new HttpLab(join(await scratch(), 'c.sock'), port, answers, {
      tokens,
      tls: null,
      hosts: new HostNames({ bind: { host: '127.0.0.1', port }, allowHosts: [] }, null),
      ports: new PortHosts({ name: 'localhost', served: null }),
      portKey: new PortKey(randomBytes(32)),
      audit: null,
      metrics: new Metrics(),
      bounds: limits.http,
      log,
      ...more,
    });
    await lab.servers.listen({ socket: lab.socket, bind: { host: '127.0.0.1', port } });
    onTestFinished(() => lab.servers.close());
    return lab;
  }

  ask(
    method: string,
    path: string,
    options: { body?: string | Buffer; headers?: Record<string, string>; tcp?: boolean } = {},
  ): Promise<Reply> {
    const { body, tcp = false } = options;
    const headers = { ...(typeof body === 'string' && { 'content-type': 'application/json' }), ...options.headers };
    const where = tcp ? { host: '127.0.0.1', port: this.port } : { socketPath: this.socket };
    return new Promise((resolve, reject) => {
      const request = httpRequest({ ...where, method, path, headers }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            text: Buffer.concat(chunks).toString(),
          }),
        );
      });
      request.on('error', reject);
      request.end(body);
    });
  }
}

/** Every error has a sentence and a code of the registry, and the registry's status. */
export function expectError(reply: Reply, status: number, code: string): { error: string; code: string; hint: string } {
  const body = JSON.parse(reply.text);
  expect([reply.status, body.code]).toEqual([status, code]);
  expect(body.error.length).toBeGreaterThan(10);
  expect(typeof body.hint).toBe('string');
  expect(isErrorCode(code)).toBe(true);
  expect(errorRegistry[code as keyof typeof errorRegistry].status).toBe(status);
  return body;
}

/** Notes each operation in `calls`, and answers in its place. */
function stub(calls: unknown[][], answers: Answers): Run {
  return (operation, ...args) => {
    const asked = args.filter((arg) => !(arg instanceof AbortSignal) && typeof arg !== 'function');
    calls.push([operation.name, ...asked]);
    return (answers[operation.name] as ((...given: unknown[]) => unknown) | undefined)?.(...args) as never;
  };
}

/** Carries out each request anew. */
const replies: Backend['replies'] = { answer: (_key, _request, gone, run) => run('key', gone) };
