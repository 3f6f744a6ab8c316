/**
 * The Python packages that were written for forkd's API work unchanged: the SDK `forkd` and the MCP server `forkd-mcp`, as PyPI
 * has them, call every method and every tool of a real controller with a warmed Python. Left out where PyPI cannot be
 * reached. docs/guides/clients.md has the table of these methods.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { forkOne, freePort, REPO, TestController, until } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { installPython, runProgram } from '../python-environment.ts';

const HERE = join(REPO, 'tests/clients');
const FORKD = join(REPO, 'packages/cli/bundle/forkd.js');
const TOKEN = 'a-token-of-the-python-clients';
const PROGRAM_TIMEOUT_MS = 600_000;
const TEMPLATE = 'py';

let secrets: string;
let controller: TestController;
const python = await installPython(join(HERE, 'requirements.txt'));

beforeAll(async () => {
  if ('missing' in python) return;
  secrets = await mkdtemp('/tmp/fkp-');
  const tokens = join(secrets, 'tokens');
  await writeFile(tokens, `${TOKEN}\n`, { mode: 0o600 });
  controller = await TestController.start({ args: ['--bind', '127.0.0.1:0', '--token-file', tokens] });
  await controller.client.createSnapshot({ tag: TEMPLATE, source: 'recipe:python', mem_mib: 512, warm: 'import json' });
}, PROGRAM_TIMEOUT_MS);
afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
  if (secrets !== undefined) await rm(secrets, { recursive: true });
});

test('the SDK gets from each method what it documents', { timeout: PROGRAM_TIMEOUT_MS }, async ({ skip }) => {
  if ('missing' in python) return skip(python.missing);
  const { engine } = await controller.client.host();
  const mode = engine.capabilities.some(({ id, ok }) => id === 'live' && ok) ? 'live' : 'diff';
  const replies = await runClient(python.bin, 'sdk.py', [mode]);
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
    list_snapshots: [{ tag: TEMPLATE, dir: expect.any(String), created_at_unix: expect.any(Number), status: 'ready' }],
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
});

test('the MCP server gets from each tool what it documents', { timeout: PROGRAM_TIMEOUT_MS }, async ({ skip }) => {
  if ('missing' in python) return skip(python.missing);
  const { engine } = await controller.client.host();
  const canLimit = engine.capabilities.some(({ id, ok }) => id === 'memory_limit' && ok);
  await forkOne(controller.client, TEMPLATE);
  const results = await runClient(python.bin, 'mcp_tools.py');
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
    create_snapshot: { is_error: true, content: [expect.stringContaining("'404 Not Found'")] },
    kill_sandbox: ok({ killed: true }),
    // A limit that the host cannot enforce is refused, not ignored.
    spawn_sandboxes: canLimit
      ? ok({ result: [expect.objectContaining({ memory_limit_mib: 1024 })] })
      : { is_error: true, content: [expect.stringContaining("'400 Bad Request'")] },
  });
  expect(results['tools']).toHaveLength(11);
  for (const { id } of await controller.client.listSandboxes()) await controller.client.deleteSandbox(id);
});

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

/** Runs a program of this directory with the address of the controller, and returns the JSON object that it prints. */
async function runClient(bin: string, program: string, args: readonly string[] = [], more: NodeJS.ProcessEnv = {}) {
  const own = { FORKD_URL: controller.url, FORKD_TOKEN: TOKEN, FORKD_HTTP_TIMEOUT: '300' };
  const env = { ...process.env, ...own, ...more };
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
