/**
 * Proves that a root has what the layers of an image add up to, for odd layers: whiteouts, opaque directories, links, names that are
 * not UTF-8, files that become directories and the other way round.
 *
 * Without symbolic links the expectation is made by GNU tar, which unpacks member by member over one directory, with `rm` for
 * whiteouts. With them it is a model of its own, since tar would follow a link out of the directory. Randomised by fast-check, which
 * prints the seed of a failure; FORKD_TEST_IMAGES is the number of images.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { tarOf, type TarMember } from '@forkd/testing';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ImageError } from '../src/errors.ts';
import { unpackLayers } from '../src/unpack.ts';
import { must, scratchDir } from './support.ts';

const IMAGES = Number(process.env.FORKD_TEST_IMAGES ?? 40);
const NAMES = ['a', 'b', 'caf\xe9', 'z\xc3\xbc', 'new\nline', '-x', '\xff\xfe', 'n'.repeat(254), 'wh.', '...'];

const name = fc.constantFrom(...NAMES);
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((names) => names.join('/'));
const facts = fc.record({
  mode: fc.constantFrom(0o644, 0o600, 0o755, 0o4755, 0o1777, 0o000),
  uid: fc.constantFrom(0, 1000, 1_999_999),
  gid: fc.constantFrom(0, 50),
  mtime: fc.integer({ min: 1, max: 2_000_000_000 }),
});
const content = fc.uint8Array({ maxLength: 1500 }).map((bytes) => Buffer.from(bytes));
const target = fc.oneof(
  path,
  path.map((it) => `/${it}`),
  path.map((it) => `../${it}`),
  fc.constantFrom('/', '..', '../../../../etc', '/nowhere/at/all'),
);

const plainMember: fc.Arbitrary<TarMember> = fc
  .oneof(
    { weight: 4, arbitrary: fc.record({ type: fc.constant('file' as const), path, data: content, facts }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('directory' as const), path, facts }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant('fifo' as const), path, facts }) },
  )
  .map(({ facts: own, ...member }) => ({ ...member, ...own }));
/** The link is a number here: most hard links are made to a file that an earlier member is. */
const hardLink: fc.Arbitrary<TarMember> = fc.record({
  type: fc.constant('hardlink' as const),
  path,
  link: fc.nat().map(String),
});
const symbolicLink: fc.Arbitrary<TarMember> = fc.record({ type: fc.constant('symlink' as const), path, link: target });
const whiteout: fc.Arbitrary<TarMember> = path.map((it) => ({ path: it.replace(/[^/]*$/, '.wh.$&') }));
const opaque: fc.Arbitrary<TarMember> = path.map((it) => ({ path: `${it}/.wh..wh..opq` }));

function image(...kinds: fc.Arbitrary<TarMember>[]) {
  const member = fc.oneof({ weight: 4, arbitrary: plainMember }, ...kinds);
  const layers = fc.array(fc.array(member, { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 4 });
  return layers.map((all) => {
    const files: string[] = [];
    return all.map((members) =>
      members.map((one) => {
        // tar cannot link to a file below the directory that the link replaces.
        const outside = files.filter((file) => !file.startsWith(`${one.path}/`));
        const link = one.type === 'hardlink' ? (outside[Number(one.link) % outside.length] ?? 'nothing') : one.link;
        if (one.type === 'file' || one.type === 'symlink' || one.type === 'fifo') files.push(one.path);
        return link === undefined ? one : { ...one, link };
      }),
    );
  });
}

/** Unpacks layers with the code under test. Null: they are refused. */
async function unpack(dir: string, layers: readonly TarMember[][], format: 'pax' | 'gnu'): Promise<string | null> {
  const files = layers.map((members, index) => {
    const file = join(dir, `layer${index}.tar`);
    writeFileSync(file, tarOf(members, format));
    return { file, name: `layer ${index}` };
  });
  const tree = join(dir, 'tree');
  const bad = (problem: string, cause: unknown) => new ImageError('bad_image', problem, { cause });
  return unpackLayers(files, { tree, signal: undefined, bad }).then(
    () => tree,
    (error: unknown) => {
      if (error instanceof ImageError && error.code === 'bad_image') return null;
      throw error;
    },
  );
}

/** Each file of a tree with its facts. Files of one inode have the first of their names. */
function listTree(tree: string): Record<string, string> {
  const list: Record<string, string> = {};
  const firsts = new Map<number, string>();
  const visit = (directory: string) => {
    const entries = readdirSync(Buffer.from(join(tree, '.') + directory, 'latin1'), { encoding: 'buffer' });
    const names = entries.map((entry) => entry.toString('latin1')).toSorted();
    for (const entry of names) {
      const at = `${directory}/${entry}`;
      const file = Buffer.from(join(tree, '.') + at, 'latin1');
      const info = lstatSync(file);
      const owner = `${info.uid}:${info.gid}`;
      const mode = (info.mode & 0o7777).toString(8);
      if (info.isDirectory()) {
        list[at] = `directory ${mode} ${owner}`;
        visit(at);
        continue;
      }
      const first = firsts.get(info.ino) ?? at;
      firsts.set(info.ino, first);
      if (info.isSymbolicLink()) list[at] = `symlink ${readlinkSync(file, { encoding: 'latin1' })} ${first}`;
      else if (info.isFIFO()) list[at] = `fifo ${mode} ${owner} ${info.mtimeMs} ${first}`;
      else list[at] = `file ${mode} ${owner} ${info.mtimeMs} ${sha256(readFileSync(file))} ${first}`;
    }
  };
  visit('');
  return list;
}

function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

const WHITEOUT = /(^|\/)\.wh\.([^/]*)$/;

/** GNU tar over one directory. Null: tar refuses a member. */
function byTar(dir: string, layers: readonly TarMember[][]): string | null {
  const tree = join(dir, 'by-tar');
  mkdirSync(tree);
  const at = (member: string) => Buffer.from(`${tree}/${member}`, 'latin1');
  const typeAt = (member: string) => {
    try {
      return lstatSync(at(member)).isDirectory() ? 'directory' : 'other';
    } catch {
      // Nothing has this name, or something above it is not a directory.
      return 'nothing';
    }
  };
  for (const members of layers) {
    for (const member of members.filter((one) => WHITEOUT.test(one.path))) {
      const place = member.path.replace(WHITEOUT, '');
      const gone = WHITEOUT.exec(member.path)![2]!;
      if (typeAt(place) !== 'directory') continue;
      const hidden = gone === '.wh..opq' ? readdirSync(at(place), { encoding: 'latin1' }) : [gone];
      for (const each of hidden) rmSync(at(place === '' ? each : `${place}/${each}`), { recursive: true, force: true });
    }
    for (const member of members.filter((one) => !WHITEOUT.test(one.path))) {
      // An entry that is in the way of a member, or of a directory above it, makes room.
      const names = member.path.split('/');
      for (let depth = 1; depth < names.length; depth++) {
        const above = names.slice(0, depth).join('/');
        if (typeAt(above) === 'other') rmSync(at(above));
      }
      const there = typeAt(member.path);
      const isSame = member.type === 'hardlink' && member.link === member.path;
      if (member.type === 'hardlink' && typeAt(member.link!) !== 'other') return null;
      if (there !== 'nothing' && !isSame && (member.type === 'directory') !== (there === 'directory')) {
        rmSync(at(member.path), { recursive: true });
      }
      const how = ['-xpf', '-', '-C', tree, '--numeric-owner'];
      const { status, stderr } = spawnSync('tar', how, {
        input: tarOf([member], 'gnu'),
        env: { ...process.env, LC_ALL: 'C' },
      });
      if (status !== 0) throw new Error(`tar: ${stderr.toString()}`);
    }
  }
  return tree;
}

test('a root without symbolic links is what tar makes of its layers', async () => {
  const dir = await scratchDir();
  let round = 0;
  let unpacked = 0;
  await fc.assert(
    fc.asyncProperty(
      image(hardLink, whiteout, opaque),
      fc.constantFrom('pax' as const, 'gnu' as const),
      async (layers, format) => {
        const place = join(dir, `t${round++}`);
        mkdirSync(place);
        const expected = byTar(place, layers);
        const tree = await unpack(place, layers, format);
        expect(tree === null).toBe(expected === null);
        if (tree !== null && expected !== null) {
          expect(listTree(tree)).toEqual(listTree(expected));
          unpacked += 1;
        }
        rmSync(place, { recursive: true });
      },
    ),
    { numRuns: IMAGES / 2 },
  );
  expect(unpacked).toBeGreaterThan(IMAGES / 8);
});

interface ModelFile {
  line: (first: string) => string;
  isDirectory: boolean;
  link: string | null;
}

/** A tree as one flat list of paths. Null: a member cannot be. */
function byModel(layers: readonly TarMember[][]): Record<string, string> | null {
  const all = new Map<string, ModelFile>();
  const made = (mode: number, uid: number, gid: number): ModelFile => ({
    line: () => `directory ${mode.toString(8)} ${uid}:${gid}`,
    isDirectory: true,
    link: null,
  });
  const removeBelow = (place: string) => {
    for (const each of all.keys()) if (each.startsWith(`${place}/`)) all.delete(each);
  };
  const remove = (place: string) => {
    removeBelow(place);
    all.delete(place);
  };
  /** The path of a directory with the links in it resolved; what is missing is made, or else there is none. */
  const resolve = (text: string, make: boolean): string | null => {
    let rest = text.split('/').filter((part) => part !== '' && part !== '.');
    let here = '';
    for (let hops = 0; rest.length > 0;) {
      const [part = '', ...after] = rest;
      rest = after;
      if (part === '..') {
        here = here.slice(0, Math.max(0, here.lastIndexOf('/')));
        continue;
      }
      const next = `${here}/${part}`;
      const found = all.get(next);
      if (found?.link != null) {
        if (++hops > 40) throw new RangeError('a circle');
        if (found.link.startsWith('/')) here = '';
        rest = [...found.link.split('/').filter((one) => one !== '' && one !== '.'), ...rest];
        continue;
      }
      if (found?.isDirectory !== true) {
        if (!make) return null;
        all.set(next, made(0o755, 0, 0));
      }
      here = next;
    }
    return here;
  };
  const split = (text: string) => [text.replace(/\/?[^/]*$/, ''), text.replace(/^.*\//s, '')] as const;
  try {
    for (const members of layers) {
      for (const member of members) {
        const [above, last] = split(member.path);
        if (!last.startsWith('.wh.')) continue;
        const place = resolve(above, false);
        if (place === null) continue;
        if (last === '.wh..wh..opq') removeBelow(place);
        else remove(`${place}/${last.slice(4)}`);
      }
      for (const member of members) {
        const [above, last] = split(member.path);
        if (last.startsWith('.wh.')) continue;
        const { type, mode = 0o644, uid = 0, gid = 0, mtime = 1e9, data = Buffer.alloc(0), link = '' } = member;
        const place = `${resolve(above, true)}/${last}`;
        const about = `${mode.toString(8)} ${uid}:${gid} ${mtime * 1000}`;
        if (type === 'hardlink') {
          const [linkAbove, linkLast] = split(link);
          const source = resolve(linkAbove, false);
          const found = source === null ? undefined : all.get(`${source}/${linkLast}`);
          if (found === undefined || found.isDirectory) return null;
          if (found !== all.get(place)) remove(place);
          all.set(place, found);
        } else if (type === 'directory') {
          if (all.get(place)?.isDirectory !== true) remove(place);
          all.set(place, made(mode, uid, gid));
        } else {
          remove(place);
          const line = (first: string) =>
            type === 'symlink'
              ? `symlink ${link} ${first}`
              : `${type} ${about}${type === 'file' ? ` ${sha256(data)}` : ''} ${first}`;
          all.set(place, { line, isDirectory: false, link: type === 'symlink' ? link : null });
        }
      }
    }
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
  const firsts = new Map<ModelFile, string>();
  // In the order in which a walk through the directories meets them.
  const key = (text: string) => text.split('/').join('\0');
  const sorted = [...all].toSorted(([one], [two]) => (key(one) < key(two) ? -1 : 1));
  return Object.fromEntries(
    sorted.map(([at, file]) => {
      if (!firsts.has(file)) firsts.set(file, at);
      return [at, file.line(firsts.get(file)!)];
    }),
  );
}

test('a root with symbolic links is what the rules of layers say, and nothing is written elsewhere', async () => {
  const dir = await scratchDir();
  let round = 0;
  let unpacked = 0;
  await fc.assert(
    fc.asyncProperty(
      image(symbolicLink, symbolicLink, hardLink, whiteout, opaque),
      fc.constantFrom('pax' as const, 'gnu' as const),
      async (layers, format) => {
        const place = join(dir, `m${round++}`);
        mkdirSync(place);
        const expected = byModel(layers);
        const tree = await unpack(place, layers, format);
        expect(tree === null).toBe(expected === null);
        if (tree !== null) {
          expect(listTree(tree)).toEqual(expected);
          unpacked += 1;
        }
        const ours = new Set(['tree', ...layers.map((_, index) => `layer${index}.tar`)]);
        expect(readdirSync(place).filter((entry) => !ours.has(entry))).toEqual([]);
        rmSync(place, { recursive: true });
      },
    ),
    { numRuns: IMAGES / 2 },
  );
  expect(unpacked).toBeGreaterThan(IMAGES / 8);
});

test('extended attributes are bytes, as those that give a program a capability', async () => {
  const dir = await scratchDir();
  const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex').toString('latin1');
  const records = { 'SCHILY.xattr.security.capability': capability };
  const tree = await unpack(dir, [[{ path: 'ping', records, data: Buffer.from('x') }]], 'pax');
  const read = 'import os,sys;sys.stdout.write(os.getxattr(sys.argv[1],"security.capability").hex())';
  expect(must('python3', ['-c', read, join(tree!, 'ping')])).toBe(Buffer.from(capability, 'latin1').toString('hex'));
});

/** A file as `tar --sparse` would write it in format 0.1. */
function sparse(map: string, size: number, data: string): TarMember {
  return { path: 'a', records: { 'GNU.sparse.map': map, 'GNU.sparse.size': String(size) }, data: Buffer.from(data) };
}

interface SparseFile {
  pieces: { holeBytes: number; data: Uint8Array }[];
  endBytes: number;
}

/** Writes a file with real holes. Returns its size. */
function writeSparse(place: string, { pieces, endBytes }: SparseFile): number {
  const file = openSync(place, 'w');
  let end = 0;
  for (const { holeBytes, data } of pieces) {
    writeSync(file, data, 0, data.length, end + holeBytes);
    end += holeBytes + data.length;
  }
  ftruncateSync(file, end + endBytes);
  closeSync(file);
  utimesSync(place, 1e9, 1e9);
  return end + endBytes;
}

test.each([
  ['gnu', '--sparse'],
  ['posix', '--sparse-version=0.0'],
  ['posix', '--sparse-version=0.1'],
  ['posix', '--sparse-version=1.0'],
])('sparse files of tar in format %s with %s are the files that they were made from', async (format, version) => {
  const dir = await scratchDir();
  const holeBytes = fc.integer({ min: 0, max: 200_000 });
  const pieces = fc.array(fc.record({ holeBytes, data: fc.uint8Array({ minLength: 1, maxLength: 1200 }) }), {
    maxLength: 40,
  });
  let round = 0;
  let smaller = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ pieces, endBytes: holeBytes }), { minLength: 1, maxLength: 3 }),
      async (files) => {
        const place = join(dir, `s${round++}`);
        const made = join(place, 'made');
        mkdirSync(made, { recursive: true });
        const sizes = files.map((file, index) => writeSparse(join(made, `${'n'.repeat(index * 90)}${index}`), file));
        const layer = join(place, 'layer.tar');
        // Each block of zeros is a hole, whatever the file system of the test finds.
        const how = ['--sparse', '--hole-detection=raw', `--format=${format}`, version];
        must('tar', ['-cf', layer, ...how, '-C', made, '.']);
        if (statSync(layer).size < sizes.reduce((sum, size) => sum + size, 0)) smaller += 1;
        const bad = (problem: string, cause: unknown) => new ImageError('bad_image', problem, { cause });
        const tree = join(place, 'tree');
        await unpackLayers([{ file: layer, name: 'layer' }], { tree, signal: undefined, bad });
        expect(listTree(tree)).toEqual(listTree(made));
        rmSync(place, { recursive: true });
      },
    ),
    { numRuns: IMAGES / 4, endOnFailure: true },
  );
  expect(smaller).toBeGreaterThan(0);
});

const LONG = 'n'.repeat(256);
test.each<[string, TarMember[], RegExp]>([
  ['a name that Linux does not allow', [{ path: LONG }], /n{250,}.* has 256 bytes/],
  ['a path that is too long', [{ path: 'd/'.repeat(3000) }], /has 6000 bytes/],
  [
    'links in a circle',
    [{ path: 'a', type: 'symlink', link: 'b' }, { path: 'b', type: 'symlink', link: 'a' }, { path: 'a/x' }],
    /circle/,
  ],
  [
    'a hard link to nothing',
    [{ path: 'a', type: 'hardlink', link: 'b' }],
    /'a' is a hard link to 'b', which is not there/,
  ],
  [
    'a hard link to a directory',
    [
      { path: 'b', type: 'directory' },
      { path: 'a', type: 'hardlink', link: 'b' },
    ],
    /which is a directory/,
  ],
  ['a root that is a link', [{ path: './', type: 'symlink', link: '/etc' }], /root of its tree is not a directory/],
  [
    'a sparse file without a map',
    [{ path: 'a', records: { 'GNU.sparse.major': '1' } }],
    /map of the sparse file 'a' is damaged/,
  ],
  ['a sparse file with data beyond its end', [sparse('2,4', 5, 'data')], /map of the sparse file 'a' is damaged/],
  ['a sparse file with pieces out of order', [sparse('4,2,0,2', 9, 'data')], /map of the sparse file 'a' is damaged/],
  ['a sparse file with half a piece', [sparse('0,4,4', 9, 'data')], /map of the sparse file 'a' is damaged/],
  ['a sparse file with data that its map lacks', [sparse('0,2', 9, 'data')], /map of the sparse file 'a' is damaged/],
  ['a sparse file that fills a disk', [sparse('0,4', 2 ** 40, 'data')], /'a' makes the holes .* more than 16 GiB/],
  ['a zero byte in a name', [{ path: 'a\0b', records: { path: 'a\0b' } }], /has a zero byte/],
  ['an owner that is no number', [{ path: 'a', records: { uid: 'root' } }], /The uid of 'a' is not a number/],
  [
    'a header of two megabytes',
    [{ path: 'a', records: { comment: 'x'.repeat(2e6) } }],
    /header of a member has \d+ bytes/,
  ],
])('%s is refused, and the sentence names it', async (_what, members, sentence) => {
  const dir = await scratchDir();
  const file = join(dir, 'layer.tar');
  writeFileSync(file, tarOf(members));
  const bad = (problem: string) => new ImageError('bad_image', problem);
  const refused = unpackLayers([{ file, name: 'the layer' }], { tree: join(dir, 'tree'), signal: undefined, bad });
  await expect(refused).rejects.toMatchObject({
    code: 'bad_image',
    message: expect.stringMatching(/^the layer: .*\.$/s) as string,
  });
  await expect(refused).rejects.toThrow(sentence);
});

test('directories that lie deeper than a path can say are refused', async () => {
  const dir = await scratchDir();
  const deep = 'd/'.repeat(1500).slice(0, -1);
  const layer: TarMember[] = [{ path: deep, type: 'directory' }];
  for (let level = 0; level < 5; level++) {
    layer.push({ path: `l${level}`, type: 'symlink', link: level === 0 ? deep : `l${level - 1}/${deep}` });
    layer.push({ path: `l${level}/${deep}`, type: 'directory' });
  }
  expect(await unpack(dir, [layer], 'pax')).toBeNull();
});

test.each([0, 1, 511, 512, 700, 1024])(
  'an archive that is cut after %d bytes is refused, unless it is empty',
  async (size) => {
    const dir = await scratchDir();
    const file = join(dir, 'layer.tar');
    writeFileSync(file, tarOf([{ path: 'a', data: Buffer.alloc(600) }]).subarray(0, size));
    const bad = (problem: string) => new ImageError('bad_image', problem);
    const done = unpackLayers([{ file, name: 'it' }], { tree: join(dir, 'tree'), signal: undefined, bad });
    if (size === 0) await done;
    else await expect(done).rejects.toThrow('it: It ends too early.');
  },
);
