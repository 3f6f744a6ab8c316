// Proves of the command as users run it: what it asks of the controller about sandboxes and snapshots, and how it prints it.
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { send } from '../../sdk/test/support/replies.ts';
import { fake, forkd, here, ID, serveForkd } from './support/forkd.ts';

serveForkd();

describe('sandboxes and snapshots', () => {
  test('forks by a prefix, and prints the ids', async () => {
    const args = ['fork', '--tag', 'pyth', '-n', '3', '--live-fork', '--per-child-netns', '--memory-limit-mib', '64'];
    const result = await forkd(args);
    expect(result.stdout.toString().trim().split('\n')).toHaveLength(3);
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({
      snapshot_tag: 'python',
      n: 3,
      live_fork: true,
      per_child_netns: true,
      memory_limit_mib: 64,
    });
    const json = await forkd(['spawn', '--tag', 'python', '--json']);
    expect(JSON.parse(json.stdout.toString())).toMatchObject([{ snapshot_tag: 'python' }]);
  });

  test('lists, quietly and not', async () => {
    expect((await forkd(['ls'])).stdout.toString()).toMatch(/^SANDBOX +NAME +STATE +SNAPSHOT/);
    expect((await forkd(['ps', '-q'])).stdout.toString()).toBe(`${ID}\nsb-00000000ab\n`);
    expect((await forkd(['images', '-q'])).stdout.toString()).toBe('python\n');
    expect((await forkd(['images'])).stdout.toString()).toContain('ready');
  });

  test('shows sandboxes that have ended with -a and to `inspect`, and says why', async () => {
    fake.ended.set('sb-00000000ee', {
      ...fake.addSandbox('sb-00000000ee', 'python'),
      name: 'old',
      state: 'ended',
      end_reason: 'guest_stopped',
    });
    fake.sandboxes.delete('sb-00000000ee');
    expect((await forkd(['ls', '-q'])).stdout.toString()).not.toContain('sb-00000000ee');
    expect((await forkd(['ls', '-a'])).stdout.toString()).toMatch(/sb-00000000ee +old +ended \(guest_stopped\)/);
    fake.overrides.set('GET /v1/workspaces', (_, response) => void response.end('[]'));
    const shown = await forkd(['inspect', 'old']);
    expect(JSON.parse(shown.stdout.toString())).toMatchObject({ id: 'sb-00000000ee', end_reason: 'guest_stopped' });
    expect((await forkd(['ping', 'old'])).stderr).toContain('sb-00000000ee');
  });

  test('names the candidates of a prefix that two have', async () => {
    const result = await forkd(['ping', 'sb-0']);
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(`${ID}, sb-00000000ab`);
  });

  test('kills several, and all', async () => {
    expect((await forkd(['kill', ID])).stdout.toString()).toBe(`${ID}\n`);
    expect((await forkd(['kill', ID])).code).toBe(1);
    expect((await forkd(['kill', '--all', '--json'])).stdout.toString()).toContain('sb-00000000ab');
    expect(fake.sandboxes.size).toBe(0);
  });

  test('kills the children of one snapshot', async () => {
    await forkd(['kill', '--all']);
    fake.addSandbox('sb-00000000cc', 'python');
    fake.addSandbox('sb-00000000dd', 'other');
    const killed = await forkd(['kill', '--tag', 'python']);
    expect(killed).toMatchObject({ code: 0, stdout: Buffer.from('sb-00000000cc\n') });
    expect([...fake.sandboxes.keys()]).toEqual(['sb-00000000dd']);
    expect(await forkd(['kill', '--tag', 'python'])).toMatchObject({ code: 0, stdout: Buffer.from('') });
  });

  test('branches live by default, and as it is told', async () => {
    const live = await forkd(['snapshot', '--from-sandbox', ID, '--tag', 'b1']);
    expect(live.stdout.toString()).toBe('b1\n');
    expect(live.stderr).toContain('paused 2.50 ms');
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({ mode: 'live', until: 'durable', tag: 'b1' });
    await forkd(['snapshot', '--from-sandbox', ID, '--tag', 'b2', '--live', '--no-wait']);
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({ mode: 'live', until: 'resumed', tag: 'b2' });
    await forkd(['snapshot', '--from-sandbox', ID, '--tag', 'b3', '--full', '--until', 'ready']);
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({ mode: 'full', until: 'ready', tag: 'b3' });
  });

  test('says HTTP 409 where others depend on a snapshot', async () => {
    fake.addSnapshot('child', { branched_from: 'python' });
    const refused = await forkd(['rmi', 'python']);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/^error: .*child.*HTTP 409/);
    fake.addSnapshot('grandchild', { branched_from: 'child' });
    fake.addSnapshot('other');
    let listings = 0;
    fake.overrides.set('GET /v1/snapshots', (_, response) => {
      listings += 1;
      send(response, 200, [...fake.snapshots.values()]);
    });
    const removed = await forkd(['rmi', '--cascade', 'python', 'grandchild', 'other']);
    expect(removed.stdout.toString().trim().split('\n').toSorted()).toEqual(['child', 'grandchild', 'other', 'python']);
    // Once before the first removal, and once after each.
    expect(listings).toBe(3);
  });

  test('removes all snapshots that it can, and reports the others at the end', async () => {
    for (const tag of ['one', 'two']) fake.addSnapshot(tag, {});
    const result = await forkd(['rmi', 'one', 'nope', 'two']);
    expect(result).toMatchObject({ code: 1, stdout: Buffer.from('one\ntwo\n') });
    expect(result.stderr).toMatch(/^error: .*nope.*HTTP 404/);
    fake.addSnapshot('three', {});
    const json = await forkd(['rmi', 'nope', 'three', 'neither', '--json']);
    expect(JSON.parse(json.stdout.toString())).toEqual({ removed: ['three'] });
    const { error, code } = JSON.parse(json.stderr) as { error: string; code: string };
    expect(code).toBe('not_found_snapshot');
    expect(error).toMatch(/^2 of 3 .*nope.*neither/);
  });

  test('builds a template, with its stages on stderr', async () => {
    const args = [
      'from-image',
      './root',
      '--tag',
      'mine',
      '--warm',
      'import numpy',
      '--mem-mib',
      '256',
      '--',
      'fill',
      '--all',
    ];
    const result = await forkd(args);
    expect(result.stdout.toString()).toBe('mine\n');
    expect(result.stderr).toContain('boot        booting');
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({
      tag: 'mine',
      source: join(here, 'root'),
      warm: 'import numpy',
      mem_mib: 256,
      warm_command: ['fill', '--all'],
    });
  });

  test('evaluates, from the command line and from stdin', async () => {
    expect((await forkd(['eval', ID, '1+1'])).stdout.toString()).toBe("'1+1'\n");
    expect((await forkd(['eval', ID, '-'], { stdin: '2+2' })).stdout.toString()).toBe("'2+2'\n");
    const failed = await forkd(['eval', ID, 'raise']);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain('Traceback');
  });
});
