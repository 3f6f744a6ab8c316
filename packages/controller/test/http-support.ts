import { request as httpRequest } from 'node:http';
import { join } from 'node:path';

import { errorRegistry, isErrorCode } from '@forkd/api';
import type { Logger } from 'pino';
import { expect, onTestFinished } from 'vitest';

import type { Edge } from '../src/http/app-parts.ts';
import { HttpServers } from '../src/http/servers.ts';
import type { Services } from '../src/http/services.ts';
import type { Tokens } from '../src/http/tokens.ts';
import { limits } from '../src/limits.ts';
import { Metrics } from '../src/observe/metrics.ts';
import { scratch, silent } from './support.ts';

export interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

/** Answers of services, such as `sandboxes.get`. */
export type Answers = Record<string, (...args: never[]) => unknown>;

/** A real server on a real unix socket and port, over services that only record what they are asked. */
export class HttpLab {
  /** What the services were asked, signals and functions left out. */
  readonly calls: unknown[][] = [];
  readonly socket: string;
  readonly port: number;
  readonly servers: HttpServers;

  private constructor(socket: string, port: number, answers: Answers, edge: Edge) {
    this.socket = socket;
    this.port = port;
    this.servers = new HttpServers(stub(this.calls, answers), edge);
  }

  /** Serves until the test is over. What is not among `answers` answers nothing. */
  static async serve(
    answers: Answers = {},
    log: Logger = silent,
    tokens: Tokens | null = null,
    more: Partial<Edge> = {},
  ): Promise<HttpLab> {
    const port = 20_000 + Math.floor(Math.random() * 20_000);
    const lab = new HttpLab(join(await scratch(), 'c.sock'), port, answers, {
      tokens,
      tls: null,
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

/** Services that note each call in `calls`. */
function stub(calls: unknown[][], answers: Answers): Services {
  const group = (name: string) =>
    new Proxy(
      {},
      {
        get:
          (_target, key: string) =>
          (...args: unknown[]) => {
            calls.push([
              `${name}.${key}`,
              ...args.filter((arg) => !(arg instanceof AbortSignal) && typeof arg !== 'function'),
            ]);
            return (answers[`${name}.${key}`] as ((...given: unknown[]) => unknown) | undefined)?.(...args);
          },
      },
    );
  return {
    snapshots: group('snapshots'),
    sandboxes: group('sandboxes'),
    guests: group('guests'),
    host: group('host'),
    workspaces: group('workspaces'),
    replies: { answer: (_key: string, _request: unknown, run: (key: string) => unknown) => run('key') },
  } as unknown as Services;
}
