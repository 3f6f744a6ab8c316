import { mkdir, open } from 'node:fs/promises';
import { ImageError } from './errors.ts';
import { LayerTree, PATH_BYTES_MAX, type Inode } from './layer-tree.ts';
import { run, runStream } from './run.ts';
import { TarError } from './tar-bytes.ts';
import { readTar, shown, type Member, type TarEntry } from './tar-read.ts';
import { END_OF_TAR, padding, writeHeader } from './tar-write.ts';

/** A tar archive, compressed or not. */
export interface Layer {
  readonly file: string;
  /** The name of the layer in an error, such as the digest. */
  readonly name: string;
}

/** Makes the error for what is wrong with an archive; `problem` is a sentence. */
export type Bad = (problem: string, cause: unknown) => ImageError;

interface Unpacking {
  readonly tree: string;
  readonly signal: AbortSignal | undefined;
  readonly bad: Bad;
  readonly onProgress?: (line: string) => void;
}

/**
 * Unpacks layers into `tree`, lowest first. They are read twice: for their names, and for the content that is left in the end.
 * GNU tar unpacks the result, with owners, attributes and devices.
 */
export async function unpackLayers(
  layers: readonly Layer[],
  { tree, signal, bad, onProgress }: Unpacking,
): Promise<void> {
  const merged = new LayerTree();
  for (const [index, layer] of layers.entries()) {
    if (layers.length > 1) onProgress?.(`root: reading layer ${index + 1} of ${layers.length}`);
    const entries: TarEntry[] = [];
    for await (const { entry } of readMembers(layer, signal, bad)) {
      naming(layer.name, bad, () => merged.admit(entry));
      entries.push(withoutOverlay(entry));
    }
    naming(layer.name, bad, () => merged.apply(index, entries));
  }
  const plan = naming('its layers', bad, () => planOf(merged.root, layers.length));
  await mkdir(tree);
  // No path leads through a link, so that there is nothing that tar would have to protect this machine from.
  const how = ['--numeric-owner', '--preserve-permissions', '--delay-directory-restore', '--absolute-names'];
  const args = ['--extract', '--file=-', `--directory=${tree}`, ...how, '--xattrs', '--xattrs-include=*'];
  await run('tar', args, {
    signal,
    input: mergedTar(plan, layers, signal, bad),
    onFailure: (failure) => bad(failure.message, failure.cause),
  });
}

/** The members of an archive, with errors that name it. */
export async function* readMembers(
  { file, name }: Layer,
  signal: AbortSignal | undefined,
  bad: Bad,
): AsyncGenerator<Member> {
  try {
    yield* readTar(decompressed(file, signal));
  } catch (error) {
    throw told(name, bad, error);
  }
}

function naming<T>(name: string, bad: Bad, body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw told(name, bad, error);
  }
}

/** Says in which archive something is wrong; what else fails is not its fault. */
function told(name: string, bad: Bad, error: unknown): unknown {
  if (error instanceof TarError) return bad(`${name}: ${error.message}`, error);
  return error instanceof ImageError && error.code === 'program_failed'
    ? bad(`${name}: ${error.message}`, error.cause)
    : error;
}

/** The guest's overlay would take such attributes for its own, and hide files that the image has. */
function withoutOverlay(entry: TarEntry): TarEntry {
  const xattrs = entry.xattrs.filter(([name]) => !/^(trusted|user)\.overlay\./.test(name));
  return xattrs.length === entry.xattrs.length ? entry : { ...entry, xattrs };
}

interface Plan {
  readonly directories: TarEntry[];
  /** The files with content, by layer and member. */
  readonly files: Map<number, TarEntry>[];
  /** Members without content. A hard link follows the file that it names. */
  readonly others: TarEntry[];
}

function planOf(root: Inode, layers: number): Plan {
  const files = Array.from({ length: layers }, () => new Map<number, TarEntry>());
  const plan: Plan = { directories: [], files, others: [] };
  addToPlan(plan, root, '.', new Map());
  return plan;
}

/** Writes the archive of the whole tree: directories first, then files as the layers have them, then the rest. */
async function* mergedTar(
  { directories, files, others }: Plan,
  layers: readonly Layer[],
  signal: AbortSignal | undefined,
  bad: Bad,
): AsyncGenerator<Buffer> {
  for (const entry of directories) yield* writeHeader(entry);
  for (const [index, layer] of layers.entries()) {
    const wanted = files[index]!;
    if (wanted.size === 0) continue;
    let member = 0;
    for await (const { content } of readMembers(layer, signal, bad)) {
      const entry = wanted.get(member);
      member += 1;
      if (entry === undefined) continue;
      yield* writeHeader(entry);
      yield* content;
      yield padding(entry.size);
    }
  }
  for (const entry of others) yield* writeHeader(entry);
  yield END_OF_TAR;
}

function addToPlan(plan: Plan, inode: Inode, path: string, names: Map<Inode, string>): void {
  if (path.length > PATH_BYTES_MAX) throw new TarError(`The path '${shown(path)}' has ${path.length} bytes.`);
  const { type, facts, content } = inode;
  const entry: TarEntry = { ...facts, type, path };
  const first = names.get(inode);
  if (type === 'directory') plan.directories.push(entry);
  else if (first !== undefined) plan.others.push({ ...entry, type: 'hardlink', link: first, size: 0, xattrs: [] });
  else if (content === null) plan.others.push(entry);
  else plan.files[content.layer]!.set(content.member, entry);
  if (inode.isLinked && first === undefined) names.set(inode, path);
  for (const [name, child] of inode.children) addToPlan(plan, child, `${path}/${name}`, names);
}

const COMPRESSIONS: readonly { readonly magic: string; readonly program: string }[] = [
  { magic: '1f8b', program: 'gzip' },
  { magic: '28b52ffd', program: 'zstd' },
  { magic: 'fd377a585a00', program: 'xz' },
  { magic: '425a68', program: 'bzip2' },
];

/** The content of a file that may be compressed. Its first bytes say how, whatever it is called. */
async function* decompressed(file: string, signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
  const handle = await open(file);
  try {
    const start = Buffer.alloc(6);
    await handle.read(start, 0, start.length, 0);
    const found = COMPRESSIONS.find(({ magic }) => start.toString('hex').startsWith(magic));
    if (found !== undefined) yield* runStream(found.program, ['-dc'], { stdin: handle.fd, signal });
    else yield* handle.createReadStream({ start: 0, autoClose: false, signal, highWaterMark: 1 << 20 });
  } finally {
    await handle.close();
  }
}
