import { open, readFile } from 'node:fs/promises';

const PAGE_BYTES = 4096;

/** A mapping of a process, and how much of it is in huge pages. */
export interface Mapping {
  start: number;
  end: number;
  hugeBytes: number;
}

/** The mappings of a process. */
export async function mappingsOf(pid: number): Promise<Mapping[]> {
  const text = await readFile(`/proc/${pid}/smaps`, 'utf8');
  return text.split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/).map((block) => {
    const [, start = '', end = ''] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(block) ?? [];
    const huge = /^AnonHugePages: +(\d+) kB$/m.exec(block)?.[1] ?? '0';
    return { start: parseInt(start, 16), end: parseInt(end, 16), hugeBytes: Number(huge) * 1024 };
  });
}

/** True if a process has mapped a layer of guest memory. */
export async function mapsLayers(pid: number): Promise<boolean> {
  // A process that has ended maps nothing.
  const maps = await readFile(`/proc/${pid}/maps`, 'utf8').catch(() => '');
  return maps.includes('memfd:forkd-layer');
}

/** Number of pages of a process that a userfaultfd write-protects at this moment. */
export async function protectedPages(pid: number): Promise<number> {
  const map = await open(`/proc/${pid}/pagemap`, 'r');
  try {
    let count = 0;
    for (const { start, end } of await mappingsOf(pid)) {
      const { buffer, bytesRead } = await map.read(
        Buffer.alloc(((end - start) / PAGE_BYTES) * 8),
        0,
        null,
        (start / PAGE_BYTES) * 8,
      );
      // Bit 57 of an entry, which is bit 1 of its last byte.
      for (let at = 7; at < bytesRead; at += 8) count += ((buffer[at] ?? 0) >> 1) & 1;
    }
    return count;
  } finally {
    await map.close();
  }
}

/** Memory that the host can still give to programs, in MiB. */
export async function availableMib(): Promise<number> {
  const kib = /^MemAvailable: +(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'utf8'))?.[1];
  return Math.floor(Number(kib ?? NaN) / 1024);
}
