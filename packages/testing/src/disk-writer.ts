import type { ForkdClient } from '@forkd/sdk';
import { until } from './controller.ts';
import { shell } from './template.ts';

const WAIT_MS = 60_000;
const FILES = 6;

/** The smallest template with a disk, but for its tag. */
export const DISK_TEMPLATE = { source: 'recipe:busybox', mem_mib: 256, disk_gib: 4, boot_wait_secs: 60 };

/** Writes files in turn until it is told to stop. Then it drops what the kernel has cached, and reads all files again. */
const PROGRAM = `
mkdir -p /data; round=0; bad=0
while [ ! -e /stop ] || [ $round -lt ${FILES} ]; do
  n=$((round % ${FILES})); head -c $((4096 * (1 + round % 40) + round)) /dev/urandom > /data/$n; fsync /data/$n
  eval "sum$n=\\$(sha256sum < /data/$n)"; round=$((round + 1)); echo $round > /round
done
sync; echo 3 > /proc/sys/vm/drop_caches
for n in $(seq 0 ${FILES - 1}); do
  eval "want=\\$sum$n"; [ "$want" = "$(sha256sum < /data/$n)" ] || bad=$((bad + 1))
done
echo "$bad differ" > /result.new; mv /result.new /result`;

/**
 * A program in a guest that writes files, syncs them, and keeps in its memory what each must hold. A branch of another instant
 * of the disk than of memory makes them differ.
 */
export class DiskWriter {
  readonly #client: ForkdClient;
  readonly #sandbox: string;

  /** The writer in a child of a sandbox in which it runs. */
  constructor(client: ForkdClient, sandbox: string) {
    this.#client = client;
    this.#sandbox = sandbox;
  }

  /** Starts a writer. Resolves when it has written every file. */
  static async start(client: ForkdClient, sandbox: string): Promise<DiskWriter> {
    await client.startCommand(sandbox, { args: ['sh', '-c', PROGRAM] });
    const writer = new DiskWriter(client, sandbox);
    await until('every file is written', WAIT_MS, async () => (await writer.#round()) > FILES);
    return writer;
  }

  /** Resolves when the writer has written one more file. */
  async goesOn(): Promise<void> {
    const before = await this.#round();
    await until('the writer goes on', WAIT_MS, async () => (await this.#round()) > before);
  }

  /** Ends the writer, and returns how many of its files differ from what its memory has of them, such as `0 differ`. */
  async result(): Promise<string> {
    await shell(this.#client, this.#sandbox, 'touch /stop');
    const read = () => shell(this.#client, this.#sandbox, 'cat /result 2>/dev/null || true');
    await until('the writer has compared its files', WAIT_MS, async () => (await read()) !== '');
    return read();
  }

  async #round(): Promise<number> {
    return Number(await shell(this.#client, this.#sandbox, 'cat /round 2>/dev/null || echo 0'));
  }
}
