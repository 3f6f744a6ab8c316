import { spawnSync } from 'node:child_process';
import { chmod, copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { BUILT } from '@forkd/lab';

/**
 * The guest of a stand-in, started in the directory of its VM: the agent, as process 1 of namespaces of its own, on a copy of the
 * root image in memory. Of the host it sees that directory, where its socket is to be, and nothing else.
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
mount --bind . guest/vm
cp AGENT guest/agent
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot guest /agent --socket /vm/guest.sock
`;

/** Firecracker's stand-in as `firecracker` in a directory of its own, with a guest of its own behind each VM's vsock socket. */
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

  /** Of a process that is to find it. */
  get env(): NodeJS.ProcessEnv {
    return { PATH: `${this.dir}${delimiter}${process.env['PATH'] ?? ''}` };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.dir, { recursive: true, force: true });
  }
}

/** Why a stand-in can have no guest of its own here; `undefined` where it can. */
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
