import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { REPO } from '@forkd/lab';
import { forkOne, makeTemplate, TestController } from '@forkd/testing';

const HERE = path.join(REPO, 'tests/fuzz');
const REQUIREMENTS = path.join(HERE, 'requirements.txt');
const DOCUMENT = path.join(REPO, 'docs/reference/openapi.json');
/** What the last run said, all of it. */
const LOG = path.join(REPO, '.cache/logs/fuzz.log');
const INSTALL_TIMEOUT_MS = 300_000;
/** More than any request may take: `hooks.py` lets none wait for a guest for longer than two seconds. */
const REQUEST_TIMEOUT_SECS = 30;
const TOKEN = 'a-token-that-only-the-fuzzer-has';

/** What builds templates reads the host and the network, and the stream of events never ends. */
const LEFT_OUT = ['createSnapshot', 'shutdown', 'events'];

const CHECKS = [
  'not_a_server_error',
  'status_code_conformance',
  'content_type_conformance',
  'response_headers_conformance',
  'response_schema_conformance',
  'ignored_auth',
];

interface Run {
  code: number | null;
  output: string;
}

/** The fuzzer's program in an environment of its own, which is kept between runs; or why there is none. */
export async function installFuzzer(): Promise<{ program: string } | { missing: string }> {
  const wanted = createHash('sha256')
    .update(await readFile(REQUIREMENTS))
    .digest('hex')
    .slice(0, 12);
  const venv = path.join(REPO, '.cache/fuzz', wanted);
  const program = path.join(venv, 'bin/schemathesis');
  const done = path.join(venv, 'installed');
  if (existsSync(done)) return { program };
  await rm(venv, { recursive: true, force: true });
  await mkdir(path.dirname(venv), { recursive: true });
  const steps: [string, string[]][] = [
    ['python3', ['-m', 'venv', venv]],
    [path.join(venv, 'bin/python'), ['-m', 'pip', 'install', '--quiet', '--only-binary', ':all:', '-r', REQUIREMENTS]],
  ];
  for (const [file, args] of steps) {
    const { code, output } = await run(file, args, INSTALL_TIMEOUT_MS);
    if (code !== 0) return { missing: `${file} ${args.join(' ')} failed: ${output.slice(-500)}` };
  }
  await writeFile(done, '');
  return { program };
}

/** Fuzzes a real controller for so long. `output` is what the fuzzer and, after it, the controller have said. */
export async function fuzz(program: string, secs: number, seed: number): Promise<Run> {
  const secrets = await mkdtemp('/tmp/fkz-');
  try {
    const tokens = path.join(secrets, 'tokens');
    await writeFile(tokens, `${TOKEN}\n`, { mode: 0o600 });
    await using controller = await TestController.start({ args: ['--bind', '127.0.0.1:0', '--token-file', tokens] });
    const target = { ...(await prepare(controller)), seed };
    const args = ['run', DOCUMENT, '--url', controller.url, '--no-color', '--seed', String(seed)];
    args.push('--header', `Authorization: Bearer ${TOKEN}`, '--request-timeout', String(REQUEST_TIMEOUT_SECS));
    args.push('--phases', 'coverage,fuzzing', '--max-time', String(secs), '--checks', CHECKS.join(','));
    args.push('--generation-database', 'none', '--warnings', 'off', '--suppress-health-check', 'all');
    args.push('--continue-on-failure', ...LEFT_OUT.flatMap((id) => ['--exclude-operation-id', id]));
    const env = { SCHEMATHESIS_HOOKS: 'hooks', PYTHONPATH: HERE, FORKD_FUZZ_TARGET: JSON.stringify(target) };
    // It has what it needs for that time, and time to tell what it has found in the smallest form.
    const done = await run(program, args, secs * 1000 + 120_000, { cwd: secrets, env: { ...process.env, ...env } });
    await controller.client.version();
    const faults = controller.log.split('\n').filter((line) => line.includes('"level":50'));
    const output = `${done.output}\n${faults.join('\n')}`;
    await mkdir(path.dirname(LOG), { recursive: true });
    await writeFile(LOG, output);
    return { code: done.code, output };
  } finally {
    await rm(secrets, { recursive: true });
  }
}

/** What requests can be about: two sandboxes with a command each, a template with a branch of it, a workspace. */
async function prepare({ client }: TestController) {
  await makeTemplate(client);
  const sandboxes = [await forkOne(client), await forkOne(client)];
  const commands: Record<string, string> = {};
  for (const id of sandboxes) commands[id] = (await client.startCommand(id, { args: ['cat'], stdin: true })).id;
  await client.branch(sandboxes[0] ?? '', { tag: 'leaf', mode: 'diff' });
  await client.createWorkspace({ name: 'home', snapshot_tag: 'base' });
  return { sandboxes, commands, tags: ['base', 'leaf'], workspaces: ['home'] };
}

async function run(
  file: string,
  args: readonly string[],
  timeoutMs: number,
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Run> {
  const child: ChildProcess = spawn(file, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs });
  let output = '';
  child.stdout?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  try {
    const [code] = (await once(child, 'close')) as [number | null];
    return { code, output };
  } catch (error) {
    return { code: null, output: String(error) };
  }
}
