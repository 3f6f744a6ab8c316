/**
 * Forks through the real controller, as users make them: every child is itself before its first command, fifty at once all
 * answer, and commands belong to their guest: they outlive connections and controllers, and are inherited by children.
 */

import type { CommandEvent } from '@forkd/api';
import { forkOne, shell, type TestController } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const COUNTER = 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done';

describe('a fork', () => {
  test('has its own hostname, machine id, entropy and clock before its first command', async ({ client }) => {
    const startMs = Date.now();
    const children = await client.createSandboxes({ snapshot_tag: 'base', n: 4 });
    const script = 'hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1; date +%s';
    const answers = await Promise.all(children.map(({ id }) => shell(client, id, script)));
    const rows = answers.map((answer) => answer.split('\n'));
    expect(rows.map(([hostname]) => hostname)).toEqual(children.map(({ id }) => id));
    expect(new Set(rows.map(([, machineId]) => machineId)).size).toBe(4);
    expect(new Set(rows.map(([, , random]) => random)).size).toBe(4);
    for (const [, , , seconds] of rows) {
      expect(Number(seconds)).toBeGreaterThanOrEqual(Math.floor(startMs / 1000));
      expect(Number(seconds)).toBeLessThanOrEqual(Math.ceil(Date.now() / 1000));
    }
    await Promise.all(children.map(({ id }) => client.deleteSandbox(id)));
  });

  test('starts fifty sandboxes at once, which all answer', { timeout: 300_000 }, async ({ client, controller }) => {
    const children = await client.createSandboxes({ snapshot_tag: 'base', n: 50 });
    const names = await Promise.all(children.map(({ id }) => shell(client, id, 'hostname')));
    expect(names).toEqual(children.map(({ id }) => id));
    await Promise.all(children.map(({ id }) => client.deleteSandbox(id)));
    expect(await controller.pids('vmm')).toEqual([]);
    expect(await controller.sandboxDirs()).toEqual([]);
  });

  test('inherits running commands, which can be listed, read, fed and killed in source and child', async ({
    client,
    controller,
  }) => {
    const source = await forkOne(client);
    const counter = await client.startCommand(source, { args: ['sh', '-c', COUNTER] });
    const echo = await client.startCommand(source, {
      args: ['sh', '-c', 'while read -r l; do echo "got $l"; done'],
      stdin: true,
    });
    await client.writeCommandStdin(source, echo.id, new TextEncoder().encode('one\n'));
    await numbersFrom(controller, source, counter.id, 0, 20);
    const { output_end: atBranch } = await client.getCommand(source, counter.id);
    await client.branch(source, { tag: 'while-running', mode: 'live' });
    const child = await forkOne(client, 'while-running');
    const listed = await client.listCommands(child);
    expect(listed.filter(({ running }) => running).map(({ id }) => id)).toEqual(
      expect.arrayContaining([counter.id, echo.id]),
    );
    // In both, the numbers run without a gap from before the branch to well after it.
    for (const id of [source, child]) {
      const numbers = await numbersFrom(controller, id, counter.id, 0, atBranch / 4 + 40);
      expect(numbers).toEqual(numbers.map((_, index) => index + 1));
    }
    await client.writeCommandStdin(child, echo.id, new TextEncoder().encode('two\n'), { close: true });
    expect(await textOf(client.commandOutput(child, echo.id))).toBe('got one\ngot two\n');
    await client.writeCommandStdin(source, echo.id, new TextEncoder().encode('three\n'), { close: true });
    expect(await textOf(client.commandOutput(source, echo.id))).toBe('got one\ngot three\n');
    await client.signalCommand(child, counter.id, 'KILL');
    await textOf(client.commandOutput(child, counter.id, { offset: 0 }));
    expect(await client.getCommand(child, counter.id)).toMatchObject({ running: false, exit_code: 137 });
    expect(await client.getCommand(source, counter.id)).toMatchObject({ running: true });
    await Promise.all([source, child].map((id) => client.deleteSandbox(id)));
  });

  test('returns output whole and binary-safe, and keeps the output before a timeout', async ({ client }) => {
    const id = await forkOne(client);
    const bytes = Uint8Array.from({ length: 300_000 }, (_, index) => (index * 7919) % 256);
    await client.writeFile(id, '/root/some file', bytes);
    expect(await client.readFile(id, '/root/some file')).toEqual(bytes);
    const chunks: Buffer[] = [];
    for await (const event of client.startCommandEvents(id, { args: ['cat', '/root/some file'] })) {
      if (event.type === 'stdout') chunks.push(Buffer.from(event.data, 'base64'));
    }
    expect(new Uint8Array(Buffer.concat(chunks))).toEqual(bytes);
    const late = client.exec(id, { args: ['sh', '-c', 'echo before; sleep 60'], timeout_secs: 3 });
    await expect(late).rejects.toMatchObject({ status: 504, body: { stdout: 'before\n' } });
    await client.deleteSandbox(id);
  });
});

async function textOf(events: AsyncIterable<CommandEvent>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const event of events) if (event.type === 'stdout') chunks.push(Buffer.from(event.data, 'base64'));
  return Buffer.concat(chunks).toString();
}

/** The first `count` numbers that the counter prints from `offset` of its output on. */
async function numbersFrom(
  { client }: TestController,
  id: string,
  command: string,
  offset: number,
  count: number,
): Promise<number[]> {
  let text = '';
  for await (const event of client.commandOutput(id, command, { offset })) {
    if (event.type === 'stdout') text += Buffer.from(event.data, 'base64').toString();
    const numbers = text.split('\n').slice(0, -1).map(Number);
    if (numbers.length >= count) return numbers;
  }
  throw new Error(`the counter ended after: ${text.slice(-200)}`);
}
