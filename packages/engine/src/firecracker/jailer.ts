import { randomInt } from 'node:crypto';
import { open, realpath } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type Command, idOf } from './process.ts';
import { VmRoot } from './vm-root.ts';

/** The users of jailed VMMs, beyond those that QEMU's have. */
export const USER_BASE = 0x7100_0000;
const USERS = 2 ** 27;

/** Firecracker's jailer: it starts a Firecracker as a user of its own, in a root of its own, under the same pid. */
export class Jailer {
  readonly path: string;
  readonly #firecracker: string;
  /** Name under which the jailer puts Firecracker into a root. */
  readonly #name: string;
  readonly #users = new Set<number>();

  private constructor(path: string, firecracker: string, name: string) {
    this.path = path;
    this.#firecracker = firecracker;
    this.#name = name;
  }

  static async open(path: string, firecracker: string): Promise<Jailer> {
    return new Jailer(path, firecracker, basename(await realpath(firecracker)));
  }

  /** Prepares the root of a VM's process. Call {@link release} when the process has ended. */
  async vmRoot(dir: string, id: string): Promise<VmRoot> {
    const user = this.#freeUser();
    this.#users.add(user);
    try {
      return await VmRoot.jailed(dir, idOf(id), this.#name, user);
    } catch (error) {
      this.#users.delete(user);
      throw error;
    }
  }

  /** No other VM is given the user of one that runs. */
  keep({ user }: VmRoot): void {
    if (user !== null) this.#users.add(user);
  }

  release({ user }: VmRoot): void {
    if (user !== null) this.#users.delete(user);
  }

  /**
   * The command that starts a Firecracker there with these arguments. It has no `--daemonize` and no `--new-pid-ns`, because
   * the process must be a child of this one. It has no `--cgroup`, because a memory limit is a cgroup that any process can find
   * by the directory of the VM.
   */
  command(id: string, args: readonly string[], vmRoot: VmRoot): Command {
    const user = String(vmRoot.user);
    const own = ['--id', idOf(id), '--exec-file', this.#firecracker, '--uid', user, '--gid', user];
    return { program: this.path, args: [...own, '--chroot-base-dir', vmRoot.base, '--', ...args] };
  }

  #freeUser(): number {
    let user: number;
    do user = USER_BASE + randomInt(USERS);
    while (this.#users.has(user));
    return user;
  }
}

/** Why a process in `place` could not open KVM; `null` if nothing speaks against it. The trial's process has been started. */
export async function kvmRefused(vmRoot: VmRoot): Promise<string | null> {
  try {
    await (await open(join(vmRoot.root, 'dev/kvm'), 'r+')).close();
    return null;
  } catch (error) {
    // A host without KVM has no VMs of Firecracker's, jailed or not.
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') return null;
    return `devices cannot be used in ${vmRoot.root}, whose file system is mounted with nodev`;
  }
}
