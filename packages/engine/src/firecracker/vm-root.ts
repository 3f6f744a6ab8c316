import { constants } from 'node:fs';
import { chmod, chown, copyFile, link, mkdir, open, readlink, realpath, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { messageOf } from '@forkd/api/constants';
import { EngineError } from '../errors.ts';
import { exists } from '../files.ts';
import { FILES } from './process.ts';

/** Name of the directory inside a VM's directory in which the jailer makes the root of the process. */
const JAIL = 'jail';

/** Sockets that the process makes in its root. Links in the VM's directory lead to them. */
const SOCKETS = [FILES.api, FILES.agent];

/** Every user may read it. */
const READABLE = 0o004;

/**
 * The file system of a VM's process: the VM's directory, in which it is started, or a root of its own inside that. Firecracker
 * gets the names of files as it sees them. A snapshot remembers the same names in both cases: `root.img`, `agent.sock`.
 *
 * A root holds links and copies and never a mount, so removing the VM's directory removes all of it. Files that forkd opens
 * there by name are in directories of its own user: before a restored guest runs, {@link seal} takes the root from the user of
 * the VM.
 */
export class VmRoot {
  /** The root, as the host sees it. */
  readonly root: string;
  readonly #dir: string;
  /** The user of the process that has a root of its own; `null` where it is ours. */
  readonly user: number | null;

  private constructor(dir: string, root: string, user: number | null) {
    this.#dir = dir;
    this.root = root;
    this.user = user;
  }

  /** A place for a process without a jail. The directory must exist. */
  static plain(dir: string): VmRoot {
    return new VmRoot(dir, dir, null);
  }

  /** Makes what the jailer fills. `program` is the name under which it puts Firecracker there. */
  static async jailed(dir: string, id: string, program: string, user: number): Promise<VmRoot> {
    const within = join(JAIL, program, id, 'root');
    const vmRoot = new VmRoot(dir, join(dir, within), user);
    await mkdir(vmRoot.root, { recursive: true, mode: 0o700 });
    // A link's path may be longer than a socket's.
    for (const name of SOCKETS) await symlink(join(within, name), join(dir, name));
    // The log has two names, and forkd reads the one in the VM's directory.
    await (await open(join(dir, FILES.log), 'a', 0o600)).close();
    await link(join(dir, FILES.log), join(vmRoot.root, FILES.log));
    await chown(join(dir, FILES.log), user, user);
    return vmRoot;
  }

  /** Finds the root of a VM that another process has started. */
  static async find(dir: string): Promise<VmRoot> {
    const within = await readlink(join(dir, FILES.api)).catch(() => null);
    if (within === null) return VmRoot.plain(dir);
    const { uid } = await stat(join(dir, FILES.log));
    return new VmRoot(dir, join(dir, dirname(within)), uid);
  }

  /** Where the jailer is told to make roots, of which this is one. */
  get base(): string {
    return join(this.#dir, JAIL);
  }

  /** Shows the process a file, which it may read. Gives the name to tell Firecracker. */
  async lend(path: string, name: string): Promise<string> {
    if (this.user === null) return resolve(path);
    await this.#show(path, name);
    return name;
  }

  /** Lends a file under exactly this name, which a snapshot remembers. See {@link lend}. */
  async lendAs(path: string, name: string): Promise<void> {
    if (this.user === null) await symlink(resolve(path), join(this.root, name));
    else await this.#show(path, name);
  }

  /** Whether the process can be given pages one by one. Its own user needs the device for that, which the jailer makes. */
  async hasUserfaultfd(): Promise<boolean> {
    return this.user === null || exists(join(this.root, 'dev/userfaultfd'));
  }

  /** Makes files that the process may write, in a directory that it cannot change. */
  async makeFiles(name: string, files: readonly string[]): Promise<string> {
    const dir = join(this.root, name);
    await mkdir(dir, { mode: this.user === null ? 0o700 : 0o711 });
    if (this.user === null) return dir;
    for (const file of files) {
      const handle = await open(join(dir, file), 'wx', 0o600);
      try {
        await handle.chown(this.user, this.user);
      } finally {
        await handle.close();
      }
    }
    return dir;
  }

  /** Keeps the process from replacing files from now on. The process must have made its sockets. */
  async seal(): Promise<void> {
    if (this.user === null) return;
    await chown(this.root, 0, 0);
    await chmod(this.root, 0o711);
  }

  /** Removes what is not to outlive the process. */
  async remove(): Promise<void> {
    await Promise.all(SOCKETS.map((name) => rm(join(this.#dir, name), { force: true })));
    await rm(this.base, { recursive: true, force: true });
  }

  /** Shares the file's pages where that can be; a copy is what works between file systems, and of files that are ours alone. */
  async #show(path: string, name: string): Promise<void> {
    const target = join(this.root, name);
    try {
      const source = await realpath(path);
      const { mode } = await stat(source);
      if ((mode & READABLE) !== 0 && (await linked(source, target))) return;
      await copyFile(source, target, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
      await chmod(target, 0o444);
    } catch (cause) {
      const why = messageOf(cause);
      throw new EngineError('vm_start_failed', `The file ${path} cannot be shown to a jailed VMM: ${why}.`, { cause });
    }
  }
}

/** `false` where there can be no second name: on another file system, or on one that knows none. */
async function linked(source: string, target: string): Promise<boolean> {
  try {
    await link(source, target);
    return true;
  } catch (error) {
    if (['EXDEV', 'EPERM', 'EMLINK', 'EOPNOTSUPP'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}
