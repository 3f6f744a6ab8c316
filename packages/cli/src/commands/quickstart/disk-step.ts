import { CodedError } from '@forkd/api/constants';
import { formatBytes } from '../../output/text.ts';
import type { DiskFigures } from './report.ts';
import type { Run } from './run.ts';

/** The size of the disk of the template, if the engine has disks. */
const DISK_GIB = 4;

/** Why the guests of this run have no disk; `null` if they have one. */
export function whyNoDisk({ host }: Run): string | null {
  const disk = host.engine.capabilities.find(({ id }) => id === 'disk');
  if (disk?.ok === true) return null;
  return disk?.why ?? 'The controller does not know disks.';
}

export function diskFields(run: Run): { disk_gib?: number } {
  return whyNoDisk(run) === null ? { disk_gib: DISK_GIB } : {};
}

/** Writes a file in a sandbox, branches the sandbox, writes another, and looks for both in a child. */
export async function diskStep(run: Run, tag: string): Promise<DiskFigures | null> {
  const { client, checks, context } = run;
  const { out, signal } = context;
  out.line('4. Write a file before a branch, and another after it');
  const why = whyNoDisk(run);
  if (why !== null) {
    out.line(`   left out: ${why}`);
    return null;
  }
  const source = run.sandboxes[0] ?? '';
  const shell = async (id: string, script: string): Promise<string> => {
    const { exit_code: code, stdout, stderr } = await client.exec(id, { args: ['sh', '-c', script] }, { signal });
    if (code !== 0) throw new CodedError('guest_failed', `"${script}" ended with ${code}: ${stderr}`);
    return stdout.trim();
  };
  await shell(source, 'mkdir /data && head -c 8000000 /dev/urandom > /data/before && sync');
  await client.branch(source, { tag, mode: 'live', until: 'ready' }, { signal });
  await shell(source, 'echo later > /data/after && sync');
  const [child] = await client.createSandboxes({ snapshot_tag: tag, n: 1 }, { signal });
  if (child === undefined) throw new CodedError('bad_response', `The fork of ${tag} is empty.`);
  run.sandboxes.push(child.id);
  const [files, same] = await Promise.all([
    shell(child.id, 'ls /data'),
    Promise.all([source, child.id].map((id) => shell(id, 'sha256sum < /data/before'))),
  ]);
  checks.expect(
    files === 'before' && same[0] === same[1],
    `${child.id} has the file of before the branch, and not the source's later one`,
    `it has ${files}`,
  );
  const { disk_own_bytes: own = 0, disk_shared_bytes: shared = 0 } = await client.sandboxStats(child.id, { signal });
  out.line(`   on the child's disk: ${formatBytes(own)} of its own, ${formatBytes(shared)} shared`);
  return { sandbox: child.id, own_bytes: own, shared_bytes: shared };
}
