import { readFile } from 'node:fs/promises';

/** Guest memory of a VMM process, in KiB. */
export interface GuestMemory {
  /** Pages that the guest has written: anonymous and private. */
  private_kib: number;
  /** Pages of the file or the layers that the guest has read. */
  shared_kib: number;
  /** Private memory plus the VMM's share of shared memory. */
  proportional_kib: number;
}

/**
 * Guest memory of process `pid`: mappings of files whose path begins with `prefix`, and the anonymous memory right beside
 * them. (QEMU keeps guest memory in one piece, with a guard on either side.)
 */
export async function guestMemory(pid: number, prefix: string): Promise<GuestMemory> {
  return readSmaps(await readFile(`/proc/${pid}/smaps`, 'utf8'), prefix);
}

interface Mapping {
  start: string;
  end: string;
  path: string;
  writable: boolean;
  sizes: Map<string, number>;
}

export function readSmaps(text: string, prefix: string): GuestMemory {
  const ours = runsOf(mappingsOf(text)).filter((run) => run.some((mapping) => mapping.path.startsWith(prefix)));
  const sum = (field: string): number =>
    ours.flat().reduce((total, mapping) => total + (mapping.sizes.get(field) ?? 0), 0);
  const own = sum('Anonymous');
  return { private_kib: own, shared_kib: sum('Rss') - own, proportional_kib: sum('Pss') };
}

function mappingsOf(text: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const line of text.split('\n')) {
    // 7f0000000000-7f0000001000 rw-p 00000000 00:01 1234    /memfd:forkd-layer (deleted)
    const [, start = '', end = '', access = '', path = ''] =
      /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+\s*(.*)$/.exec(line) ?? [];
    if (start !== '') mappings.push({ start, end, path, writable: access.startsWith('rw'), sizes: new Map() });
    const [, field = '', kib] = /^(\w+):\s+(\d+) kB$/.exec(line) ?? [];
    if (field !== '') mappings.at(-1)?.sizes.set(field, Number(kib));
  }
  return mappings;
}

/** Writable mappings without a gap between them. */
function runsOf(mappings: readonly Mapping[]): Mapping[][] {
  const runs: Mapping[][] = [];
  for (const mapping of mappings.filter(({ writable }) => writable)) {
    const run = runs.at(-1);
    if (run?.at(-1)?.end === mapping.start) run.push(mapping);
    else runs.push([mapping]);
  }
  return runs;
}
