import { spawn, type ChildProcess } from 'node:child_process';
import type http from 'node:http';
import os from 'node:os';
import { ApiError, type CommandEvent } from '@forkd/api';
import { line, send, sendNothing } from './replies.ts';

/** The commands of all sandboxes: processes of this host. */
export class FakeCommands {
  readonly sessions = new Map<string, Session>();
  readonly #readJson: (request: http.IncomingMessage) => Promise<unknown>;
  #sessionCount = 0;

  constructor(readJson: (request: http.IncomingMessage) => Promise<unknown>) {
    this.#readJson = readJson;
  }

  /** Runs one to its end, and returns its exit code. */
  async run(args: string[]): Promise<number | null | undefined> {
    const session = this.#start({ args });
    await ended(session);
    return session.exit?.exit_code;
  }

  killAll(): void {
    for (const session of this.sessions.values()) killGroup(session.child, 'SIGKILL');
  }

  async route(
    request: http.IncomingMessage,
    response: http.ServerResponse,
    url: URL,
    [cid, verb]: string[],
  ): Promise<void> {
    if (cid === undefined && request.method === 'GET') {
      return send(
        response,
        200,
        [...this.sessions].map(([id, session]) => commandInfo(id, session)),
      );
    }
    if (cid === undefined) {
      const body = (await this.#readJson(request)) as StartBody & { follow?: boolean };
      const session = this.#start(body);
      const id = String(this.#sessionCount);
      if (!body.follow) return send(response, 201, commandInfo(id, session));
      response.writeHead(201, { 'content-type': 'application/x-ndjson' });
      line(response, { type: 'started', id, pid: session.child.pid });
      return this.#follow(response, session, 0, true);
    }
    const session = this.sessions.get(cid);
    if (session === undefined) throw new ApiError('not_found_command', `there is no command "${cid}"`);
    if (verb === undefined && request.method === 'GET') return send(response, 200, commandInfo(cid, session));
    if (verb === 'output') {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      const offset = Number(url.searchParams.get('offset') ?? 0);
      return this.#follow(response, session, offset, url.searchParams.get('follow') === 'true');
    }
    if (verb === 'stdin') {
      if (session.exit) throw new ApiError('command_ended', `command ${cid} has ended`);
      for await (const chunk of request) session.child.stdin?.write(chunk);
      if (url.searchParams.get('close') === 'true') session.child.stdin?.end();
      return sendNothing(response);
    }
    if (verb === 'signal') {
      const { signal } = (await this.#readJson(request)) as { signal: string };
      killGroup(session.child, `SIG${signal}` as NodeJS.Signals);
      return sendNothing(response);
    }
    killGroup(session.child, 'SIGKILL');
    this.sessions.delete(cid);
    return sendNothing(response);
  }

  #start(body: StartBody): Session {
    const [file = 'false', ...args] = body.args;
    const child = spawn(file, args, {
      stdio: [body.stdin ? 'pipe' : 'ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...body.env },
      // A group of its own, which a signal goes to as a whole, as in a guest.
      detached: true,
      ...(body.cwd ? { cwd: body.cwd } : {}),
    });
    const session: Session = { child, args: body.args, events: [], offset: 0, exit: undefined, watchers: new Set() };
    let timedOut = false;
    const timer = body.timeout_secs
      ? setTimeout(() => (timedOut = killGroup(child, 'SIGKILL')), body.timeout_secs * 1000)
      : undefined;
    const push = (type: 'stdout' | 'stderr') => (data: Buffer) => {
      session.events.push({ type, offset: session.offset, data: data.toString('base64') });
      session.offset += data.length;
      for (const watcher of session.watchers) watcher();
    };
    child.stdin?.on('error', () => {});
    child.stdout?.on('data', push('stdout'));
    child.stderr?.on('data', push('stderr'));
    child.once('error', () => finish(127, null));
    child.once('close', (code, signal) => finish(code, signal));
    const finish = (code: number | null, signal: NodeJS.Signals | null) => {
      clearTimeout(timer);
      const number = signal === null ? 0 : os.constants.signals[signal];
      const exitCode = signal === null ? (code ?? 127) : 128 + number;
      session.exit ??= { type: 'exit', exit_code: exitCode, signal: signal?.slice(3) ?? null, timed_out: timedOut };
      for (const watcher of session.watchers) watcher();
    };
    this.#sessionCount += 1;
    this.sessions.set(String(this.#sessionCount), session);
    return session;
  }

  async #follow(response: http.ServerResponse, session: Session, from: number, follows: boolean): Promise<void> {
    let next = 0;
    const flush = () => {
      for (; next < session.events.length; next += 1) {
        const event = session.events[next];
        if (event === undefined || !('data' in event)) continue;
        const data = Buffer.from(event.data, 'base64');
        const skip = Math.max(0, from - event.offset);
        if (skip < data.length) {
          line(response, { ...event, offset: event.offset + skip, data: data.subarray(skip).toString('base64') });
        }
      }
      if (session.exit && !response.writableEnded) line(response, session.exit);
      if (session.exit || !follows) response.end();
    };
    session.watchers.add(flush);
    response.once('close', () => session.watchers.delete(flush));
    flush();
  }
}

interface Session {
  child: ChildProcess;
  args: string[];
  events: CommandEvent[];
  offset: number;
  exit: Extract<CommandEvent, { type: 'exit' }> | undefined;
  watchers: Set<() => void>;
}

interface StartBody {
  args: string[];
  stdin?: boolean;
  env?: Record<string, string>;
  cwd?: string;
  timeout_secs?: number;
}

function killGroup(child: ChildProcess, signal: NodeJS.Signals): boolean {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return false;
  return process.kill(-child.pid, signal);
}

function ended(session: Session): Promise<void> {
  return new Promise((resolve) => {
    const watch = () => {
      if (session.exit) resolve();
    };
    session.watchers.add(watch);
    watch();
  });
}

function commandInfo(id: string, session: Session) {
  return {
    id,
    pid: session.child.pid ?? 0,
    args: session.args,
    running: session.exit === undefined,
    exit_code: session.exit?.exit_code ?? null,
    signal: session.exit?.signal ?? null,
    timed_out: session.exit?.timed_out ?? false,
    output_start: 0,
    output_end: session.offset,
    started_unix_ms: Date.now(),
  };
}
