import { constants } from 'node:fs';
import { chmod, chown, copyFile, link, mkdir, open, readlink, realpath, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { exists } from '../files.ts';
import { EngineError } from '../errors.ts';
import { FILES } from './process.ts';

/** In a VM's directory, where the jailer makes the root of the VM's process. */
const JAIL = 'jail';

/** Of the sockets that a process makes for us in its root: links in the VM's directory lead to them. */
const SOCKETS = [FILES.api, FILES.agent];

/** Every user may read it. */
const READABLE = 0o004;

/**
 * What the process of a VM sees of the host: the VM's directory, where it is started, or a root of its own inside that. A file
 * is named to Firecracker as it sees it, and what a snapshot remembers is the same in both: `root.img`, `agent.sock`.
 *
 * A root holds links and copies and never a mount, so that whoever removes the VM's directory has removed all of it. What we
 * open there by name is in directories of ours: before a restored guest runs, {@link seal} takes the root from its user.
 */
export class Place {
  /** As the host sees it. */
  readonly root: string;
  readonly #dir: string;
  /** The user of the process that has a root of its own; `null` where it is ours. */
  readonly user: number | null;

  private constructor(dir: string, root: string, user: number | null) {
    this.#dir = dir;
    this.root = root;
    this.user = user;
  }

  /** For a process that is not jailed. The directory is there. */
  static plain(dir: string): Place {
    return new Place(dir, dir, null);
  }

  /** Makes what the jailer fills. `program` is the name under which it puts Firecracker there. */
  static async jailed(dir: string, id: string, program: string, user: number): Promise<Place> {
    const within = join(JAIL, program, id, 'root');
    const place = new Place(dir, join(dir, within), user);
    await mkdir(place.root, { recursive: true, mode: 0o700 });
    // A link's path may be longer than a socket's.
    for (const name of SOCKETS) await symlink(join(within, name), join(dir, name));
    // One file with two names: ours is the one that is read.
    await (await open(join(dir, FILES.log), 'a', 0o600)).close();
    await link(join(dir, FILES.log), join(place.root, FILES.log));
    await chown(join(dir, FILES.log), user, user);
    return place;
  }

  /** That of a VM which another process has started. */
  static async find(dir: string): Promise<Place> {
    const within = await readlink(join(dir, FILES.api)).catch(() => null);
    if (within === null) return Place.plain(dir);
    const { uid } = await stat(join(dir, FILES.log));
    return new Place(dir, join(dir, dirname(within)), uid);
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

  /** As {@link lend}, but under that very name, which a snapshot remembers. */
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
      await handle.chown(this.user, this.user).finally(() => handle.close());
    }
    return dir;
  }

  /** From here on the process cannot put one file in the place of another. It has made its sockets. */
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
      const why = cause instanceof Error ? cause.message : String(cause);
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
