/**
 * `forkd mcp` serves the official client of the Model Context Protocol: tools with schemas, on a real controller and real guests,
 * within the limits that its user has set. python-clients.test.ts calls the tools that forkd's own MCP server has.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { REPO, until, type TestController } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { expect } from 'vitest';

const FORKD = join(REPO, 'packages/cli/bundle/forkd.js');
const TIMEOUT_MS = 120_000;

type Fields = Record<string, unknown>;

/** A client of a server that it has started. */
class ModelClient implements AsyncDisposable {
  readonly client = new Client({ name: 'test', version: '1' });
  readonly #transport: StdioClientTransport;

  private constructor(transport: StdioClientTransport) {
    this.#transport = transport;
  }

  static async start(controller: TestController, ...options: string[]): Promise<ModelClient> {
    const env = { ...process.env, FORKD_URL: `unix:${controller.socket}` } as Record<string, string>;
    const args = [FORKD, 'mcp', ...options];
    const one = new ModelClient(new StdioClientTransport({ command: process.execPath, args, env }));
    await one.client.connect(one.#transport);
    return one;
  }

  get pid(): number {
    return this.#transport.pid ?? 0;
  }

  /** Calls a tool that succeeds, and returns the structure of its result. */
  async call<Result = Fields>(name: string, args: Fields = {}): Promise<Result> {
    const result = await this.client.callTool({ name, arguments: args });
    if (result.isError) throw new Error(`${name} failed: ${JSON.stringify(result.content)}`);
    return result.structuredContent as Result;
  }

  /** Calls a tool that fails, and returns what the model reads. */
  async fail(name: string, args: Fields = {}): Promise<string> {
    const result = await this.client.callTool({ name, arguments: args });
    if (!result.isError) throw new Error(`${name} did not fail: ${JSON.stringify(result.content)}`);
    return result.content.map((block) => (block.type === 'text' ? block.text : '')).join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
  }
}

test('each tool has a description, schemas of its arguments and its result, and says what it does', async ({
  controller,
}) => {
  await using model = await ModelClient.start(controller);
  const { tools } = await model.client.listTools();
  expect(tools.length).toBeGreaterThan(30);
  for (const { name, title, description, inputSchema, outputSchema, annotations } of tools) {
    expect([name, title, description].every((text) => (text ?? '') !== '')).toBe(true);
    expect([inputSchema.type, outputSchema?.type]).toEqual(['object', 'object']);
    expect(annotations).toMatchObject({ readOnlyHint: expect.any(Boolean), destructiveHint: expect.any(Boolean) });
  }
  const guide = await readFile(join(REPO, 'docs/guides/mcp.md'), 'utf8');
  expect(tools.filter(({ name }) => !guide.includes(`\`${name}\``))).toEqual([]);
  await using reader = await ModelClient.start(controller, '--read-only');
  const reading = (await reader.client.listTools()).tools;
  expect(reading.map(({ name }) => name)).toEqual(
    tools.filter(({ annotations }) => annotations?.readOnlyHint).map(({ name }) => name),
  );
  expect(reading.map(({ name }) => name)).not.toContain('exec_command');
});

test(
  'a model runs programs, moves files, and forks what runs',
  { timeout: TIMEOUT_MS },
  async ({ controller, client }) => {
    await using model = await ModelClient.start(controller, '--max-sandboxes', '2', '--ttl', '10m');
    const { result } = await model.call<{ result: { id: string; ttl_secs?: number }[] }>('spawn_sandboxes', {
      snapshot_tag: 'base',
      memory_limit_mib: null,
    });
    const sandbox_id = result[0]?.id ?? '';
    expect(await model.call('exec_command', { sandbox_id, args: ['sh', '-c', 'echo out; exit 3'] })).toMatchObject({
      stdout: 'out\n',
      exit_code: 3,
    });
    await model.call('write_file', { sandbox_id, path: '/tmp/a b', content: 'grüße; ready\n' });
    expect(await model.call('read_file', { sandbox_id, path: '/tmp/a b' })).toEqual({
      content: 'grüße; ready\n',
      encoding: 'utf-8',
      truncated: false,
    });
    const wait = { sandbox_id, marker: 'ready', timeout_secs: 0.1 };
    expect(await model.call('wait_for_text', { ...wait, path: '/tmp/a b' })).toMatchObject({ found: true });
    expect(await model.call('wait_for_text', { ...wait, path: '/tmp/$(reboot)' })).toMatchObject({ found: false });
    await model.call('exec_command', {
      sandbox_id,
      args: ['sh', '-c', 'head -c 300000 /dev/zero | tr "\\0" x > /tmp/x'],
    });
    const large = await model.call<{ content: string }>('read_file', { sandbox_id, path: '/tmp/x' });
    expect([large.content.length, large]).toEqual([262_144, expect.objectContaining({ truncated: true })]);

    const script = 'trap "exit 4" TERM; read line; echo "got $line"; while sleep 0.1; do :; done';
    const args = ['sh', '-c', script];
    const { id: command_id } = await model.call<{ id: string }>('start_command', { sandbox_id, args, stdin: true });
    const { sandbox_ids } = await model.call<{ sandbox_ids: string[] }>('fork_sandbox', { sandbox_id });
    for (const id of [sandbox_id, ...sandbox_ids]) {
      const command = { sandbox_id: id, command_id };
      expect(await model.call('command_output', command)).toMatchObject({ stdout: '', has_ended: false });
      await model.call('send_stdin', { ...command, text: `${id}\n` });
      const read = await model.call('command_output', { ...command, wait_secs: 60 });
      expect(read).toMatchObject({ stdout: `got ${id}\n` });
      await model.call('signal_command', { ...command, signal: 'TERM' });
      const rest = { ...command, offset: read['next_offset'], wait_secs: 60 };
      expect(await model.call('command_output', rest)).toMatchObject({ stdout: '', has_ended: true, exit_code: 4 });
    }

    const tooMany = await model.fail('spawn_sandboxes', { snapshot_tag: 'base' });
    expect(tooMany).toMatch(/more than 2 sandboxes: 2 exist\. \(too_many_sandboxes\)\nHint: .*kill_sandbox/);
    for (const id of [sandbox_id, ...sandbox_ids]) {
      expect(await client.getSandbox(id)).toMatchObject({ expires_at_unix: expect.any(Number) });
      await model.call('kill_sandbox', { sandbox_id: id });
    }
    expect(await client.listSandboxes()).toEqual([]);
  },
);

test('a model reads what was wrong, and what to do', async ({ controller }) => {
  await using model = await ModelClient.start(controller);
  expect(await model.fail('get_sandbox', { sandbox_id: 'sb-none' })).toMatch(
    /^There is no sandbox 'sb-none'\. \(not_found_sandbox\)\nHint: .+/,
  );
  expect(await model.fail('exec_command', { sandbox_id: 'sb-none', args: [] })).toMatch(/args/);
});

test('a model hears how the build of a template gets on', { timeout: TIMEOUT_MS }, async ({ controller, client }) => {
  await using model = await ModelClient.start(controller);
  const messages: string[] = [];
  const built = await model.client.callTool(
    { name: 'build_template', arguments: { tag: 'of-a-model', source: 'busybox', mem_mib: 128 } },
    { timeout: TIMEOUT_MS, onprogress: ({ message = '' }) => messages.push(message) },
  );
  expect(built.structuredContent).toMatchObject({ tag: 'of-a-model', status: 'ready' });
  expect(messages.join('\n')).toMatch(/^boot: /m);
  await model.call('delete_snapshot', { tag: 'of-a-model' });
  expect((await client.listSnapshots()).map(({ tag }) => tag)).not.toContain('of-a-model');
});

test('a server ends with its client', async ({ controller }) => {
  const model = await ModelClient.start(controller);
  const { pid } = model;
  await model[Symbol.asyncDispose]();
  await until('the server has ended', TIMEOUT_MS, async () => {
    try {
      return !process.kill(pid, 0);
    } catch {
      return true;
    }
  });
});
