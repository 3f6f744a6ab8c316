import { randomInt } from 'node:crypto';
import { open, realpath } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Place } from './place.ts';
import { type Command, idOf } from './process.ts';

/** The users of jailed VMMs, beyond those that QEMU's have. */
export const USER_BASE = 0x7100_0000;
const USERS = 2 ** 27;

/** Firecracker's jailer: it starts a Firecracker as a user of its own, in a root of its own, under the same pid. */
export class Jailer {
  readonly path: string;
  readonly #firecracker: string;
  /** Under which it puts Firecracker into a root. */
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

  /** Where a VM's process is to be. To be given back with {@link release} when that has ended. */
  async place(dir: string, id: string): Promise<Place> {
    const user = this.#freeUser();
    this.#users.add(user);
    try {
      return await Place.jailed(dir, idOf(id), this.#name, user);
    } catch (error) {
      this.#users.delete(user);
      throw error;
    }
  }

  /** No other VM is given the user of one that runs. */
  keep({ user }: Place): void {
    if (user !== null) this.#users.add(user);
  }

  release({ user }: Place): void {
    if (user !== null) this.#users.delete(user);
  }

  /**
   * What starts a Firecracker there with these arguments. Neither `--daemonize` nor `--new-pid-ns`: the process is to be our
   * child. No `--cgroup`: a memory limit is a cgroup that is found by the VM's directory, whoever looks for it.
   */
  command(id: string, args: readonly string[], place: Place): Command {
    const user = String(place.user);
    const own = ['--id', idOf(id), '--exec-file', this.#firecracker, '--uid', user, '--gid', user];
    return { program: this.path, args: [...own, '--chroot-base-dir', place.base, '--', ...args] };
  }

  #freeUser(): number {
    let user: number;
    do user = USER_BASE + randomInt(USERS);
    while (this.#users.has(user));
    return user;
  }
}

/** Why a process in `place` could not open KVM; `null` if nothing speaks against it. The trial's process has been started. */
export async function kvmRefused(place: Place): Promise<string | null> {
  try {
    await (await open(join(place.root, 'dev/kvm'), 'r+')).close();
    return null;
  } catch (error) {
    // A host without KVM has no VMs of Firecracker's, jailed or not.
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') return null;
    return `devices cannot be used in ${place.root}, whose file system is mounted with nodev`;
  }
}
