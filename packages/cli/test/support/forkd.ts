// The command as users run it: a real process, against a real server whose guests are processes of this host. What is looked
// at is what a script sees: stdout, stderr, the exit code.
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach } from 'vitest';
import { FakeController } from '../../../sdk/test/support/fake-controller.ts';

const MAIN = fileURLToPath(new URL('../../bundle/forkd.js', import.meta.url));
/** A sandbox that each test finds, beside one whose id differs in the last digit. */
export const ID = 'sb-00000000aa';

/** The server of a test file, and the directory that its commands are started in. */
export let fake: FakeController;
export let here: string;

/** Gives the tests of a file their server, which each of them finds as it was at the start, and their directory. */
export function serveForkd(): void {
  beforeAll(async () => {
    fake = await FakeController.start();
    here = await mkdtemp(join(os.tmpdir(), 'forkd-cli-'));
  });
  afterAll(async () => {
    await fake.stop();
    await rm(here, { recursive: true, force: true });
  });
  beforeEach(() => {
    fake.sandboxes.clear();
    fake.ended.clear();
    fake.snapshots.clear();
    fake.sessions.clear();
    fake.overrides.clear();
    fake.seen.length = 0;
    fake.addSnapshot('python');
    fake.addSandbox(ID, 'python');
    fake.addSandbox('sb-00000000ab', 'python');
  });
}

interface Result {
  code: number | null;
  stdout: Buffer;
  stderr: string;
}
interface RunOptions {
  /** The program that starts the command, before it. Both are a process group of their own then. */
  through?: readonly string[];
  env?: NodeJS.ProcessEnv;
  stdin?: string | Buffer;
  onStdout?: (child: ReturnType<typeof spawn>, text: string) => void;
}

/** Runs `forkd` to its end. */
export function forkd(args: readonly string[], options: RunOptions = {}): Promise<Result> {
  const env = { ...process.env, FORKD_URL: `unix:${fake.socket}`, NO_COLOR: '1', ...options.env };
  const [program = '', ...rest] = [...(options.through ?? []), process.execPath, MAIN, ...args];
  const detached = options.through !== undefined;
  const child = spawn(program, rest, { env, cwd: here, detached, stdio: ['pipe', 'pipe', 'pipe'] });
  const stdout: Buffer[] = [];
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout.push(chunk);
    options.onStdout?.(child, chunk.toString());
  });
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  // Not every command reads what it is given.
  child.stdin.on('error', () => {});
  if (options.stdin !== undefined) child.stdin.end(options.stdin);
  return new Promise((resolve) => {
    child.once('close', (code) => resolve({ code, stdout: Buffer.concat(stdout), stderr }));
  });
}
