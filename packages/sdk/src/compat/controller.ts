import { defaultListen } from '@forkd/api/constants';
import { environment } from '../platform.ts';
import type {
  BranchOptions,
  EvalResult,
  ExecOptions,
  ExecResult,
  PingResult,
  SandboxInfo,
  SnapshotInfo,
  SpawnOptions,
  SpawnSandboxesOptions,
} from './types.ts';

export interface ControllerOptions {
  /** Default: FORKD_URL, then http://127.0.0.1:8889. */
  baseUrl?: string | undefined;
  /** The bearer token. Default: FORKD_TOKEN. */
  token?: string | undefined;
  /** The time limit of each request, in milliseconds. Default: 60,000. */
  timeoutMs?: number | undefined;
  /** Default: the platform's `fetch`. */
  fetch?: typeof fetch | undefined;
}

const TIMEOUT_MS_DEFAULT = 60_000;
const EXEC_TIMEOUT_SECS_DEFAULT = 30;

/** A reply that is not a success: its status, its body (parsed if it is JSON) and the URL of the request. */
export class ControllerError extends Error {
  override readonly name = 'ControllerError';
  readonly status: number;
  readonly body: unknown;
  readonly url: string;

  constructor(status: number, body: unknown, url: string) {
    super(`controller ${url}: HTTP ${status}: ${typeof body === 'string' ? body : JSON.stringify(body)}`);
    this.status = status;
    this.body = body;
    this.url = url;
  }
}

/**
 * The client of forkd's own SDK, for code that was written for that SDK. Requests and replies are those of the API, in
 * snake_case. Nothing is retried. Calls reject with a ControllerError, with `fetch`'s error if there was no reply, and with
 * an AbortError after `timeoutMs`. New code should use `Sandbox` and `Snapshot`.
 */
export class Controller {
  readonly baseUrl: string;
  readonly token: string | undefined;
  readonly timeoutMs: number;
  readonly #fetch: typeof fetch;

  constructor(options: ControllerOptions = {}) {
    const env = environment();
    const baseUrl = options.baseUrl ?? (env['FORKD_URL'] || `http://${defaultListen.host}:${defaultListen.port}`);
    this.baseUrl = baseUrl.replace(/\/+$/, '');
    this.token = options.token ?? env['FORKD_TOKEN'];
    this.timeoutMs = options.timeoutMs ?? TIMEOUT_MS_DEFAULT;
    // Browsers reject a call of their `fetch` with another `this`.
    this.#fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
  }

  listSnapshots(): Promise<SnapshotInfo[]> {
    return this.#ask('GET', '/v1/snapshots');
  }

  deleteSnapshot(tag: string): Promise<void> {
    return this.#ask('DELETE', `/v1/snapshots/${encodeURIComponent(tag)}`);
  }

  /** Starts `n` sandboxes from a snapshot. */
  spawnSandboxes(options: SpawnSandboxesOptions): Promise<SandboxInfo[]> {
    const body: SpawnOptions = {
      snapshot_tag: options.snapshotTag,
      n: options.n ?? 1,
      per_child_netns: options.perChildNetns ?? false,
    };
    if (options.memoryLimitMib !== undefined) body.memory_limit_mib = options.memoryLimitMib;
    if (options.prewarm !== undefined) body.prewarm = options.prewarm;
    if (options.liveFork !== undefined) body.live_fork = options.liveFork;
    if (options.hugepages !== undefined) body.hugepages = options.hugepages;
    return this.#ask('POST', '/v1/sandboxes', body);
  }

  listSandboxes(): Promise<SandboxInfo[]> {
    return this.#ask('GET', '/v1/sandboxes');
  }

  getSandbox(sandboxId: string): Promise<SandboxInfo> {
    return this.#ask('GET', sandboxPath(sandboxId));
  }

  /** Ends a sandbox. Rejects with status 404 if the sandbox is already gone. */
  killSandbox(sandboxId: string): Promise<void> {
    return this.#ask('DELETE', sandboxPath(sandboxId));
  }

  /** Takes a snapshot of a running sandbox. Pass its `tag` to `spawnSandboxes`. */
  branchSandbox(sandboxId: string, options: BranchOptions = {}): Promise<SnapshotInfo> {
    const { tag, mode, diff, live, measure_diff, wait, parent_tag } = options;
    const body: BranchOptions = {};
    if (tag !== undefined) body.tag = tag;
    if (mode !== undefined) body.mode = mode;
    else {
      if (diff) body.diff = true;
      if (live) body.live = true;
    }
    if (measure_diff) body.measure_diff = true;
    if (wait === false) body.wait = false;
    if (parent_tag !== undefined) body.parent_tag = parent_tag;
    return this.#ask('POST', `${sandboxPath(sandboxId)}/branch`, body);
  }

  /** Runs a program to its end. `timeoutSecs` bounds the program, default 30; `timeoutMs` still bounds the request. */
  execCommand(
    sandboxId: string,
    args: string[],
    options: { timeoutSecs?: number | undefined } = {},
  ): Promise<ExecResult> {
    const body: ExecOptions = { args, timeout_secs: options.timeoutSecs ?? EXEC_TIMEOUT_SECS_DEFAULT };
    return this.#ask('POST', `${sandboxPath(sandboxId)}/exec`, body);
  }

  /** Evaluates code in the warmed interpreter. An exception is returned in `error`. */
  evalCode(sandboxId: string, code: string): Promise<EvalResult> {
    return this.#ask('POST', `${sandboxPath(sandboxId)}/eval`, { code });
  }

  pingSandbox(sandboxId: string): Promise<PingResult> {
    return this.#ask('POST', `${sandboxPath(sandboxId)}/ping`);
  }

  async #ask<Result>(method: string, path: string, body?: unknown): Promise<Result> {
    const url = this.baseUrl + path;
    const headers: Record<string, string> = {};
    if (this.token) headers['authorization'] = `Bearer ${this.token}`;
    const request: RequestInit = { method, headers };
    if (body !== undefined) {
      headers['content-type'] = 'application/json';
      request.body = JSON.stringify(body);
    }
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), this.timeoutMs);
    try {
      const reply = await this.#fetch(url, { ...request, signal: controller.signal });
      const text = await reply.text();
      if (!reply.ok) throw new ControllerError(reply.status, parsedIfJson(text), url);
      return (text === '' ? null : JSON.parse(text)) as Result;
    } finally {
      clearTimeout(timer);
    }
  }
}

function sandboxPath(id: string): string {
  return `/v1/sandboxes/${encodeURIComponent(id)}`;
}

/** Parses JSON. Other text, such as a proxy's page, is returned as text; an empty body becomes an empty object. */
function parsedIfJson(text: string): unknown {
  if (text === '') return {};
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
