import { spawnSync } from 'node:child_process';
import { chmod, copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { BUILT } from './paths.ts';

/**
 * The guest of a stand-in, started in the directory of its VM. The agent is process 1 of its own namespaces, on a copy of the
 * root image in memory. Of the host it sees only that directory, which will hold its socket.
 */
const GUEST = `#!/bin/sh
set -eu
if [ "\${FORKD_STAND_IN_GUEST:-}" != inside ]; then
  exec env FORKD_STAND_IN_GUEST=inside unshare --mount --pid --ipc --uts --net --fork --kill-child "$0" "$@"
fi
mkdir -p guest
mount -t tmpfs -o size=64m,mode=755 none guest
fsck.erofs --extract=guest root.img >/dev/null
mkdir -p guest/proc guest/tmp guest/dev guest/vm
mount -t proc none guest/proc
for name in sys sysrq-trigger; do
  [ -e guest/proc/$name ] || continue
  mount --bind guest/proc/$name guest/proc/$name
  mount -o remount,bind,ro guest/proc/$name
done
mount -t tmpfs -o mode=755 none guest/dev
for name in null zero random urandom; do
  : >guest/dev/$name
  mount --bind /dev/$name guest/dev/$name
done
mkdir guest/dev/pts
mount -t devpts -o ptmxmode=0666 none guest/dev/pts
ln -s pts/ptmx guest/dev/ptmx
mount --bind . guest/vm
cp AGENT guest/agent
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot guest /agent --socket /vm/guest.sock
`;

/** A stand-in for Firecracker, as `firecracker` in its own directory. Each VM has its own guest behind its vsock socket. */
export class FirecrackerStandIn implements AsyncDisposable {
  readonly dir: string;

  private constructor(dir: string) {
    this.dir = dir;
  }

  static async open(config: { version?: string; extensions?: boolean } = {}): Promise<FirecrackerStandIn> {
    const standIn = new FirecrackerStandIn(await mkdtemp('/tmp/fk-fc-'));
    await copyFile(BUILT.firecrackerStandIn, join(standIn.dir, 'firecracker'));
    const agent = join(standIn.dir, 'guest.sh');
    await writeFile(agent, GUEST.replace('AGENT', BUILT.agent));
    await chmod(agent, 0o755);
    await writeFile(join(standIn.dir, 'stand-in.json'), JSON.stringify({ ...config, agent }));
    return standIn;
  }

  /** Environment for a process that must find the stand-in. */
  get env(): NodeJS.ProcessEnv {
    return { PATH: `${this.dir}${delimiter}${process.env['PATH'] ?? ''}` };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.dir, { recursive: true, force: true });
  }
}

/** Reason why a stand-in cannot have its own guest here; `undefined` if it can. */
export function whyNoGuest(): string | undefined {
  const { status, stderr, error } = spawnSync(
    'unshare',
    ['--mount', '--pid', '--ipc', '--uts', '--net', '--fork', 'mount', '-t', 'tmpfs', 'none', '/tmp'],
    {
      encoding: 'utf8',
    },
  );
  return status === 0 ? undefined : `namespaces of its own cannot be had here: ${error?.message ?? stderr.trim()}`;
}
