/**
 * The Python packages that were written for forkd's API work unchanged: the SDK `forkd` and the MCP server `forkd-mcp`, as PyPI
 * has them, call every method and every tool of a real controller with a warmed Python. The SDK of this repository does the same
 * on the same controller: its own tests, the programs of its pages, and those of the package that had its name before. Left out
 * where PyPI cannot be reached. docs/guides/clients.md has the table of these methods.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { forkOne, freePort, REPO, TestController, until } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Installed, installPython, runProgram } from '../python-environment.ts';
import { installOwnPackage, programsOf } from './own-package.ts';

const HERE = join(REPO, 'tests/clients');
const FORKD = join(REPO, 'packages/cli/bundle/forkd.js');
const TOKEN = 'a-token-of-the-python-clients';
const PROGRAM_TIMEOUT_MS = 600_000;
const TEMPLATE = 'py';
const WARM = 'import json; squares = [n * n for n in range(1000)]';
/** Pages with programs, each of which prints the block of text after it. */
const PAGES = ['README.md', 'python/README.md', 'docs/guides/python.md'];

let secrets: string;
let controller: TestController;
let own: Installed;
const python = await installPython(join(HERE, 'requirements.txt'));
const tools = await installPython(join(REPO, 'tests/python/requirements.txt'));

beforeAll(async () => {
  if ('missing' in python) return;
  secrets = await mkdtemp('/tmp/fkp-');
  own = await installOwnPackage(tools, join(secrets, 'own'));
  const tokens = join(secrets, 'tokens');
  await writeFile(tokens, `${TOKEN}\n`, { mode: 0o600 });
  controller = await TestController.start({ args: ['--bind', '127.0.0.1:0', '--token-file', tokens] });
  await controller.client.createSnapshot({ tag: TEMPLATE, source: 'recipe:python', mem_mib: 512, warm: WARM });
}, PROGRAM_TIMEOUT_MS);
afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
  if (secrets !== undefined) await rm(secrets, { recursive: true });
});

test.for([
  ['of PyPI', () => python],
  ['of this repository', () => own],
] as const)(
  'the SDK %s gets from each method what it documents',
  { timeout: PROGRAM_TIMEOUT_MS },
  async ([, place], { skip }) => {
    const installed = place();
    if ('missing' in installed) return skip(installed.missing);
    const { engine } = await controller.client.host();
    const mode = engine.capabilities.some(({ id, ok }) => id === 'live' && ok) ? 'live' : 'diff';
    const replies = await runClient(installed.bin, 'sdk.py', [mode]);
    const sandbox = {
      id: expect.stringMatching(/^sb-/),
      snapshot_tag: TEMPLATE,
      netns: null,
      guest_addr: expect.any(String),
      created_at_unix: expect.any(Number),
      pid: expect.any(Number),
      memory_limit_mib: null,
      has_branched: false,
      last_branch_memory_path: null,
    };
    expect(replies).toMatchObject({
      list_snapshots: [
        { tag: TEMPLATE, dir: expect.any(String), created_at_unix: expect.any(Number), status: 'ready' },
      ],
      spawn_sandboxes: [sandbox, sandbox],
      list_sandboxes: [sandbox, sandbox],
      get_sandbox: sandbox,
      ping_sandbox: { pong: true, pid: 1, numpy_version: expect.any(String) },
      exec_command: { stdout: 'out\n', stderr: 'err\n', exit_code: 3 },
      eval_code: { result: '42', error: null, exit_code: 0 },
      eval_code_raises: { result: null, error: expect.stringContaining('ZeroDivisionError'), exit_code: 1 },
      branch_full: { tag: expect.stringMatching(/^branch-sb-/), status: 'ready', branched_from: expect.any(String) },
      branch_diff: { tag: 'by-diff', status: 'ready' },
      branch_measured: { tag: 'measured', status: 'ready' },
      branch_mode: { tag: 'by-mode' },
      status_of_mode: 'ready',
      branch_again: { tag: 'again', status: 'ready' },
      delete_snapshot: null,
      ping_child: { pong: true },
      error: { status: 404, body: { error: expect.stringContaining('sb-none'), code: 'not_found_sandbox' } },
      kill_sandbox: null,
    });
    for (const branch of [replies['branch_full'], replies['branch_diff'], replies['branch_measured']]) {
      expect(Number.isInteger(branch.pause_ms)).toBe(true);
    }
    for (const branch of [replies['branch_diff'], replies['branch_measured']]) {
      const { diff_ms, diff_physical_bytes, diff_logical_bytes } = branch;
      expect(
        [diff_ms, diff_physical_bytes, diff_logical_bytes].every((value) => Number.isInteger(value) && value > 0),
      ).toBe(true);
    }
  },
);

test.for([
  ['forkd-mcp of PyPI', [], 11],
  ['forkd mcp', [process.execPath, FORKD, 'mcp'], 32],
] as const)(
  '%s gets from each tool what it documents',
  { timeout: PROGRAM_TIMEOUT_MS },
  async ([, command, count], { skip }) => {
    if ('missing' in python) return skip(python.missing);
    const { engine } = await controller.client.host();
    const canLimit = engine.capabilities.some(({ id, ok }) => id === 'memory_limit' && ok);
    await forkOne(controller.client, TEMPLATE);
    const results = await runClient(python.bin, 'mcp_tools.py', command);
    const isOurs = command.length > 0;
    const ok = (content: unknown) => ({ is_error: false, content });
    expect(results).toMatchObject({
      list_snapshots: ok({ result: expect.arrayContaining([expect.objectContaining({ tag: TEMPLATE })]) }),
      list_sandboxes: ok({ result: expect.arrayContaining([expect.objectContaining({ snapshot_tag: TEMPLATE })]) }),
      get_sandbox: ok({ snapshot_tag: TEMPLATE }),
      ping_sandbox: ok({ pong: true }),
      exec_command: ok({ stdout: '', stderr: '', exit_code: 0 }),
      wait_for_text: ok({ found: true }),
      eval_code: ok({ result: '42', error: null }),
      branch_sandbox: ok({ tag: 'of-tool', status: 'ready' }),
      // The server of PyPI keeps the sentence of the error to itself.
      create_snapshot: { is_error: true, content: [expect.stringContaining(isOurs ? '\nHint: ' : "'404 Not Found'")] },
      kill_sandbox: ok({ killed: true }),
      // A limit that the host cannot enforce is refused, not ignored.
      spawn_sandboxes: canLimit
        ? ok({ result: [expect.objectContaining({ memory_limit_mib: 1024 })] })
        : { is_error: true, content: [expect.stringContaining(isOurs ? '(unsupported)' : "'400 Bad Request'")] },
    });
    expect(results['tools']).toHaveLength(count);
    await controller.client.deleteSnapshot('of-tool');
    for (const { id } of await controller.client.listSandboxes()) await controller.client.deleteSandbox(id);
  },
);

test('the Sandbox of the SDK runs and evaluates', { timeout: PROGRAM_TIMEOUT_MS }, async ({ skip }) => {
  if ('missing' in python) return skip(python.missing);
  const command = join(secrets, 'forkd');
  await writeFile(command, `#!/bin/sh\nexec '${process.execPath}' '${FORKD}' "$@"\n`, { mode: 0o755 });
  const before = (await controller.client.listSandboxes()).map(({ id }) => id);
  const env = { PATH: `${secrets}:${process.env['PATH']}`, FORKD_TARGET: `127.0.0.1:${await freePort()}` };
  expect(await runClient(python.bin, 'sandbox.py', [], env)).toMatchObject({
    run: { stdout: 'out\n', stderr: '', exit_code: 3 },
    run_list: 'a b\n',
    eval: '42',
    ping: { pong: true, pid: 1 },
    eval_raises: expect.stringContaining('ZeroDivisionError'),
  });
  await until('its sandbox is killed', PROGRAM_TIMEOUT_MS, async () => {
    const left = await controller.client.listSandboxes();
    return left.every(({ id }) => before.includes(id));
  });
});

test('the guide names every method of both', async ({ skip }) => {
  if ('missing' in python) return skip(python.missing);
  const guide = await readFile(join(REPO, 'docs/guides/clients.md'), 'utf8');
  const program = [
    'import inspect, forkd, forkd_mcp.server as server',
    'methods = [name for name, _ in inspect.getmembers(forkd.Controller, inspect.isfunction) if name[0] != "_"]',
    'tools = [tool.name for tool in server.mcp._tool_manager.list_tools()]',
    'print("\\n".join(methods + tools))',
  ].join('\n');
  const { code, output } = await runProgram(join(python.bin, 'python'), ['-c', program], PROGRAM_TIMEOUT_MS);
  expect([code, code === 0 ? '' : output]).toEqual([0, '']);
  const names = output.trim().split('\n');
  expect(names.length).toBeGreaterThan(15);
  expect(names.filter((name) => !guide.includes(`\`${name}\``))).toEqual([]);
});

test('the SDK of this repository does what its tests say', { timeout: PROGRAM_TIMEOUT_MS }, async ({ skip }) => {
  if ('missing' in python) return skip(python.missing);
  if ('missing' in tools) return skip(tools.missing);
  const sources = { PYTHONPATH: join(REPO, 'python/src'), PYTHONDONTWRITEBYTECODE: '1' };
  const guest = { FORKD_TEST_TEMPLATE: TEMPLATE, FORKD_TEST_SOCKET: controller.socket };
  const env = { ...environment(), ...sources, ...guest };
  const args = ['-m', 'pytest', '--quiet', '-p', 'no:cacheprovider', join(REPO, 'python/tests/test_guest.py')];
  const { code, output } = await runProgram(join(tools.bin, 'python'), args, PROGRAM_TIMEOUT_MS, { env });
  expect([code, code === 0 ? '' : output]).toEqual([0, '']);
  expect(output).not.toContain('skipped');
  expect(await controller.client.listSandboxes()).toEqual([]);
});

test('its wheel runs the programs of its pages', { timeout: PROGRAM_TIMEOUT_MS }, async ({ skip }) => {
  if ('missing' in own) return skip(own.missing);
  const programs = (await Promise.all(PAGES.map((page) => programsOf(page)))).flat();
  expect(programs.length).toBeGreaterThan(10);
  for (const { page, program, prints } of programs) {
    const args = ['-c', program];
    const run = await runProgram(join(own.bin, 'python'), args, PROGRAM_TIMEOUT_MS, { env: environment() });
    expect({ page, program, ...run }).toMatchObject({ code: 0, stdout: prints });
  }
  const example = await readFile(join(REPO, 'examples/fork_map.py'), 'utf8');
  expect(programs.map(({ program }) => program)).toContain(example.replace(/^#.*\n/, ''));
  expect(await controller.client.listSandboxes()).toEqual([]);
});

/** Names the controller to a program. */
function environment(): NodeJS.ProcessEnv {
  return { ...process.env, FORKD_URL: controller.url, FORKD_TOKEN: TOKEN, FORKD_HTTP_TIMEOUT: '300' };
}

/** Runs a program of this directory with the address of the controller, and returns the JSON object that it prints. */
async function runClient(bin: string, program: string, args: readonly string[] = [], more: NodeJS.ProcessEnv = {}) {
  const env = { ...environment(), ...more };
  const command = [join(HERE, program), TEMPLATE, ...args];
  const { code, output } = await runProgram(join(bin, 'python'), command, PROGRAM_TIMEOUT_MS, { env });
  expect([code, code === 0 ? '' : output]).toEqual([0, '']);
  // The servers of these packages log on the other stream.
  const last = output
    .trim()
    .split('\n')
    .findLast((line) => line.startsWith('{'));
  return JSON.parse(last ?? '');
}
