import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { forkOne, REPO, TestController } from '@forkd/testing';
import { installPython, type ProgramRun, runProgram } from '../python-environment.ts';

const HERE = join(REPO, 'tests/fuzz');
const REQUIREMENTS = join(HERE, 'requirements.txt');
const DOCUMENT = join(REPO, 'docs/reference/openapi.json');
/** The whole output of the last run. */
const LOG = join(REPO, '.cache/logs/fuzz.log');
/** More than any request may take: `hooks.py` lets none wait for a guest for longer than two seconds. */
const REQUEST_TIMEOUT_SECS = 30;
const TOKEN = 'a-token-that-only-the-fuzzer-has';

/** Operations that are left out: building a template reads the host and the network, and the event stream never ends. */
const LEFT_OUT = ['createSnapshot', 'shutdown', 'events'];

const CHECKS = [
  'not_a_server_error',
  'status_code_conformance',
  'content_type_conformance',
  'response_headers_conformance',
  'response_schema_conformance',
  'ignored_auth',
];

/** The fuzzer's program, or why there is none. */
export async function installFuzzer(): Promise<{ program: string } | { missing: string }> {
  const python = await installPython(REQUIREMENTS);
  return 'missing' in python ? python : { program: join(python.bin, 'schemathesis') };
}

/** Fuzzes a real controller for so long. `output` is what the fuzzer and, after it, the controller have said. */
export async function fuzz(program: string, secs: number, seed: number): Promise<ProgramRun> {
  const secrets = await mkdtemp('/tmp/fkz-');
  try {
    const tokens = join(secrets, 'tokens');
    await writeFile(tokens, `${TOKEN}\n`, { mode: 0o600 });
    await using controller = await TestController.start({
      args: ['--bind', '127.0.0.1:0', '--token-file', tokens],
      template: true,
    });
    const target = { ...(await prepare(controller)), seed };
    const args = ['run', DOCUMENT, '--url', controller.url, '--no-color', '--seed', String(seed)];
    args.push('--header', `Authorization: Bearer ${TOKEN}`, '--request-timeout', String(REQUEST_TIMEOUT_SECS));
    args.push('--phases', 'coverage,fuzzing', '--max-time', String(secs), '--checks', CHECKS.join(','));
    args.push('--generation-database', 'none', '--warnings', 'off', '--suppress-health-check', 'all');
    args.push('--continue-on-failure', ...LEFT_OUT.flatMap((id) => ['--exclude-operation-id', id]));
    const env = { SCHEMATHESIS_HOOKS: 'hooks', PYTHONPATH: HERE, FORKD_FUZZ_TARGET: JSON.stringify(target) };
    // The time limit leaves the fuzzer time to reduce and report its findings.
    const done = await runProgram(program, args, secs * 1000 + 120_000, {
      cwd: secrets,
      env: { ...process.env, ...env },
    });
    await controller.client.version();
    const faults = controller.log.split('\n').filter((line) => line.includes('"level":"error"'));
    const output = `${done.output}\n${faults.join('\n')}`;
    await mkdir(dirname(LOG), { recursive: true });
    await writeFile(LOG, output);
    return { ...done, output };
  } finally {
    await rm(secrets, { recursive: true });
  }
}

/** Makes the subjects of the requests: two sandboxes with a command each, a branch of the template, a workspace. */
async function prepare({ client }: TestController) {
  const sandboxes = [await forkOne(client), await forkOne(client)];
  const commands: Record<string, string> = {};
  for (const id of sandboxes) commands[id] = (await client.startCommand(id, { args: ['cat'], stdin: true })).id;
  await client.branch(sandboxes[0] ?? '', { tag: 'leaf', mode: 'diff' });
  await client.createWorkspace({ name: 'home', snapshot_tag: 'base' });
  return { sandboxes, commands, tags: ['base', 'leaf'], workspaces: ['home'] };
}
