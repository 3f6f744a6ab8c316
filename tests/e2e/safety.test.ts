/**
 * Branches with `safety: strict`: the programs of the source stand still at the instant, and in a child they go on only with its
 * own names. Children that never get an identity are never handed out.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ForkdClient } from '@forkd/sdk';
import { forkOne, sh, shell, until } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

/** Notes the machine's name as fast as it can. */
const NOTES = 'n=0; while read -r name < /proc/sys/kernel/hostname; do n=$((n+1)); echo "$n $name"; done > /tmp/names';
const WAIT_MS = 60_000;
/** Attempts of a control to see what may not happen in each. */
const ATTEMPTS = 10;

describe('a branch with safety strict', () => {
  /** Counts, in each of two children of one branch, the notes with the name of the source. */
  async function notesUnderTheSourcesName(
    client: ForkdClient,
    tag: string,
    safety: 'standard' | 'strict',
  ): Promise<number[]> {
    const source = await forkOne(client);
    await client.startCommand(source, { args: ['sh', '-c', NOTES] });
    await until(
      'the source notes',
      WAIT_MS,
      async () => (await shell(client, source, 'cat /tmp/names || true')) !== '',
    );
    await client.branch(source, { tag, mode: 'live', safety });
    const children = await client.createSandboxes({ snapshot_tag: tag, n: 2, safety });
    const counts = [];
    for (const { id } of children) {
      await until('it has noted its own name', WAIT_MS, async () =>
        shell(client, id, `grep -q ${id} /tmp/names`).then(
          () => true,
          () => false,
        ),
      );
      counts.push(Number(await shell(client, id, `grep -c ${source} /tmp/names`)));
    }
    // The source goes on as well.
    const before = Number(await shell(client, source, 'wc -l < /tmp/names'));
    await until('the source notes on', WAIT_MS, async () => {
      return Number(await shell(client, source, 'wc -l < /tmp/names')) > before;
    });
    await Promise.all([source, ...children.map(({ id }) => id)].map((id) => client.deleteSandbox(id)));
    return counts;
  }

  test('lets no program of a child act under the name of its source', async ({ client }) => {
    const [one, other] = await notesUnderTheSourcesName(client, 'notes-strict', 'strict');
    expect(one).toBeGreaterThan(0);
    expect(other).toBe(one);
    expect(await client.getSnapshot('notes-strict')).toMatchObject({ safety: 'strict' });
  });

  test('is needed for a strict child: after a standard branch, programs act under that name at first', async ({
    client,
  }) => {
    let counts = new Set<number>();
    // Two children may note equally often, or have their names before their programs run.
    for (let attempt = 0; attempt < ATTEMPTS && counts.size < 2; attempt += 1) {
      counts = new Set(await notesUnderTheSourcesName(client, `notes-${attempt}`, 'standard'));
    }
    expect(counts.size).toBe(2);
    expect((await client.getSnapshot('notes-0')).safety).toBeUndefined();
    const strict = client.createSandboxes({ snapshot_tag: 'notes-0', safety: 'strict' });
    await expect(strict).rejects.toMatchObject({ code: 'unsupported' });
  });

  test('is refused for a paused sandbox', async ({ client }) => {
    const source = await forkOne(client);
    await client.pauseSandbox(source);
    await expect(client.branch(source, { mode: 'live', safety: 'strict' })).rejects.toMatchObject({
      code: 'sandbox_paused',
    });
    await client.deleteSandbox(source);
  });

  test('never hands out a child whose agent does not answer', async ({ client, controller }) => {
    const source = await forkOne(client);
    // Root of a guest can do so to its agent.
    const group = '/sys/fs/cgroup/agent';
    const steps = [
      'sleep 0.3',
      `echo 1 > ${group}/cgroup.procs`,
      `echo 1 > ${group}/cgroup.freeze`,
      `until grep -q 'frozen 1' ${group}/cgroup.events; do sleep 0.1; done`,
      'echo the agent stands still > /dev/console',
    ];
    await shell(client, source, `mkdir ${group}; (${steps.join('; ')}) & exit 0`);
    await until('the agent stands still', WAIT_MS, async () => {
      let log = '';
      const text = new TextDecoder();
      for await (const chunk of client.sandboxLogs(source, { tail_bytes: 1000 })) log += text.decode(chunk);
      return log.includes('the agent stands still');
    });
    await client.branch(source, { tag: 'silent', mode: 'live' });
    const listed = async () => (await client.listSandboxes()).map(({ id }) => id);
    const [before, ids] = [(await controller.pids('vmm')).length, await listed()];
    await expect(client.createSandboxes({ snapshot_tag: 'silent', n: 2 })).rejects.toMatchObject({
      code: 'guest_unreachable',
    });
    expect(await listed()).toEqual(ids);
    expect(await controller.pids('vmm')).toHaveLength(before);
    await client.deleteSandbox(source);
  });
});

describe('frozen programs', () => {
  test('stand still in a child until it has an identity, and no command starts before that', async ({
    lab,
    template,
  }) => {
    const source = await lab.fork(template);
    await source.agent.start(['sh', '-c', NOTES]);
    await until('it notes', WAIT_MS, async () => (await sh(source.agent, 'cat /tmp/names || true')) !== '');
    await source.agent.freeze();
    const done = await lab.branch(source);
    expect(await source.agent.thaw()).toBe(true);
    expect(await source.agent.thaw()).toBe(false);
    const child = await lab.join(await lab.restore(lab.point(source, done)));
    const size = async () => {
      const { sizeBytes, data } = await child.agent.readFile('/tmp/names');
      for await (const _ of data) break;
      return sizeBytes;
    };
    const started = sh(child.agent, 'hostname');
    const before = await size();
    await delay(1000);
    expect(await size()).toBe(before);
    await lab.identify(child);
    expect(await started).toBe(child.vm.record.id);
    await until('it notes on', WAIT_MS, async () => (await size()) !== before);
    await Promise.all([source, child].map((guest) => lab.end(guest)));
  });

  test('go on by themselves in a source that is never thawed', async ({ lab, template }) => {
    const source = await lab.fork(template);
    await source.agent.start(['sh', '-c', NOTES]);
    await source.agent.freeze();
    expect(await sh(source.agent, 'echo here')).toBe('here');
    expect(await source.agent.thaw()).toBe(false);
    await lab.end(source);
  });
});
