import { TarError } from './tar-bytes.ts';
import { shown, type TarEntry } from './tar-read.ts';

/** A file of the tree, under one name or, if hard links were made, several. */
export interface Inode {
  readonly type: Exclude<TarEntry['type'], 'hardlink'>;
  /** Owner, mode and so on; of a directory those of the last layer that has it. */
  facts: Omit<TarEntry, 'type' | 'path'>;
  /** The place of the content: the layer, and the number of members before it there. `null` unless this is a file. */
  readonly content: { readonly layer: number; readonly member: number } | null;
  /** The names in a directory. */
  readonly children: Map<string, Inode>;
  /** True if a hard link was made of it. */
  isLinked: boolean;
}

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** Files in which AUFS kept its own records. */
const AUFS = '.wh..wh.';
/** Linux follows as many. */
const LINKS_MAX = 40;
const NAME_BYTES_MAX = 255;
/** Linux allows 4,095; the place where the tree is unpacked needs some. */
export const PATH_BYTES_MAX = 3800;
/** A large image has some hundred thousand files. */
const MEMBERS_MAX = 1_000_000;
const METADATA_BYTES_MAX = 256 * 1024 * 1024;

/**
 * The tree that the layers of an image add up to, by the rules of the OCI image specification.
 *
 * Only names and their facts are kept, in memory. No layer is unpacked over another one on this machine's file system, so no
 * link of an image leads anywhere but in the image.
 */
export class LayerTree {
  readonly root: Inode = directory();
  #members = 0;
  #metadataBytes = 0;

  /** Adds a layer: `entries` are its members in their order. */
  apply(layer: number, entries: readonly TarEntry[]): void {
    // A whiteout removes what lower layers have, wherever it stands in its own layer.
    for (const { path } of entries) this.#whiteOut(partsOf(path));
    for (const [member, entry] of entries.entries()) {
      const parts = partsOf(entry.path);
      if (!(parts.at(-1) ?? '').startsWith(WHITEOUT)) this.#add(entry, parts, { layer, member });
    }
  }

  /** Accounts for a member before it is kept. */
  admit(entry: TarEntry): void {
    this.#members += 1;
    this.#metadataBytes += entry.path.length + entry.link.length;
    for (const [name, value] of entry.xattrs) this.#metadataBytes += name.length + value.length;
    if (this.#members > MEMBERS_MAX) throw new TarError(`It has more than ${MEMBERS_MAX} files.`);
    if (this.#metadataBytes > METADATA_BYTES_MAX)
      throw new TarError('The names and attributes of its files are too many.');
  }

  #whiteOut(parts: readonly string[]): void {
    const name = parts.at(-1) ?? '';
    if (!name.startsWith(WHITEOUT)) return;
    const parent = this.#walk(parts.slice(0, -1), false);
    if (name === OPAQUE) parent?.children.clear();
    else if (!name.startsWith(AUFS)) parent?.children.delete(name.slice(WHITEOUT.length));
  }

  #add(entry: TarEntry, parts: readonly string[], content: { layer: number; member: number }): void {
    const { type } = entry;
    const name = parts.at(-1);
    if (name === undefined) {
      if (type !== 'directory') throw new TarError('The root of its tree is not a directory.');
      this.root.facts = entry;
      return;
    }
    const parent = this.#walk(parts.slice(0, -1), true)!;
    const there = parent.children.get(name);
    if (type === 'hardlink') {
      parent.children.set(name, this.#linked(entry));
    } else if (type === 'directory' && there?.type === 'directory') {
      there.facts = entry;
    } else {
      const at = type === 'file' ? content : null;
      parent.children.set(name, { type, facts: entry, content: at, children: new Map(), isLinked: false });
    }
  }

  #linked({ path, link }: TarEntry): Inode {
    const parts = partsOf(link);
    const target = this.#walk(parts.slice(0, -1), false)?.children.get(parts.at(-1) ?? '');
    if (target === undefined || target.type === 'directory') {
      const what = target === undefined ? 'is not there' : 'is a directory';
      throw new TarError(`'${shown(path)}' is a hard link to '${shown(link)}', which ${what}.`);
    }
    target.isLinked = true;
    return target;
  }

  /**
   * The directory at a path, reached through links as in a root of its own. `make`: a directory that is missing on the way is
   * made, even where a link leads to nowhere or a file is in the way.
   */
  #walk(parts: readonly string[], make: boolean): Inode | null {
    const todo = parts.toReversed();
    const way = [this.root];
    for (let links = 0; todo.length > 0;) {
      const name = todo.pop()!;
      if (name === '..') {
        if (way.length > 1) way.pop();
        continue;
      }
      const here = way.at(-1)!;
      let next = here.children.get(name);
      if (next?.type === 'symlink') {
        if (++links > LINKS_MAX) throw new TarError(`The links at '${shown(parts.join('/'))}' lead in a circle.`);
        const target = next.facts.link;
        if (target.startsWith('/')) way.length = 1;
        todo.push(...namesOf(target).toReversed());
        continue;
      }
      if (next?.type !== 'directory') {
        if (!make) return null;
        next = directory();
        here.children.set(checked(name), next);
      }
      way.push(next);
    }
    return way.at(-1)!;
  }
}

/** A directory that no layer lists. */
function directory(): Inode {
  const facts = { link: '', mode: 0o755, uid: 0, gid: 0, mtime: 0, size: 0, major: 0, minor: 0, xattrs: [] };
  return { type: 'directory', facts, content: null, children: new Map(), isLinked: false };
}

function namesOf(path: string): string[] {
  return path.split('/').filter((name) => name !== '' && name !== '.');
}

/** The names on the way to a member. `..` does not lead out of the tree. */
function partsOf(path: string): string[] {
  if (path.length > PATH_BYTES_MAX) throw new TarError(`The path '${shown(path)}' has ${path.length} bytes.`);
  const parts: string[] = [];
  for (const name of namesOf(path)) {
    if (name === '..') parts.pop();
    else parts.push(checked(name));
  }
  return parts;
}

function checked(name: string): string {
  // A whiteout is no file of the tree, and as much longer than what it removes.
  const allowed = name.startsWith(WHITEOUT) ? NAME_BYTES_MAX + WHITEOUT.length : NAME_BYTES_MAX;
  if (name.length <= allowed) return name;
  throw new TarError(`The name '${shown(name)}' has ${name.length} bytes, and Linux allows ${NAME_BYTES_MAX}.`);
}
