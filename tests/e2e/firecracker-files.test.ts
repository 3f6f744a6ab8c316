/**
 * Snapshots as Firecracker's own files, out of a controller and into one, through its socket and through the command. The
 * snapshots are made beforehand, of VMs of Firecracker's stand-in, whose memory is known byte for byte. Each way to fail leaves
 * nothing: no half-made directory, no snapshot, no file of the store.
 */
// oxlint-disable vitest/no-standalone-expect -- what is called here is called by tests, or after each of them.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { type BranchDone, FirecrackerEngine, Pager } from '@forkd/engine';
import type { ForkdError } from '@forkd/sdk';
import { asDigest, type SnapshotConfig, Store } from '@forkd/store';
import { BUILT, REPO, requireBuilt, TestController, until } from '@forkd/testing';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';

const run = promisify(execFile);
const PATH_BEFORE = process.env['PATH'] ?? '';
const MEM_MIB = 32;
const MEM_BYTES = MEM_MIB * 2 ** 20;
const PAGE_BYTES = 4096;
/** Allowance for the index of a file system or of a layer. */
const SLACK_BYTES = 256 * 1024;

let dir: string;
let data: string;
/** Where tests write: empty before each of them. */
let out: string;
let controller: TestController;
let truth: Buffer;

beforeAll(async () => {
  await requireBuilt();
  dir = await mkdtemp('/tmp/fk-');
  data = join(dir, 'data');
  await mkdir(join(dir, 'bin'));
  await copyFile(BUILT.firecrackerStandIn, join(dir, 'bin/firecracker'));
  process.env['PATH'] = `${join(dir, 'bin')}${delimiter}${PATH_BEFORE}`;
  truth = await makeSnapshots();
  controller = await TestController.start({ dir: data, args: ['--engine', 'firecracker'] });
});

afterAll(async () => {
  process.env['PATH'] = PATH_BEFORE;
  await controller?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

beforeEach(async () => {
  out = await mkdtemp(join(dir, 'out-'));
});

afterEach(async () => {
  const left = await controller.client.listSnapshots();
  for (const { tag } of left) if (tag !== 'made' && tag !== 'of-qemu') await controller.client.deleteSnapshot(tag);
  // Files of failed exports, which have such names while they are written.
  expect((await readdir(out)).filter((name) => name.includes('.partial-'))).toEqual([]);
  expect(await controller.ingested()).toEqual([]);
});

/** `made`, two layers deep, and the same as if QEMU had taken it. Gives the memory of both. */
async function makeSnapshots(): Promise<Buffer> {
  const storeDir = join(data, 'store');
  const store = await Store.open(storeDir);
  const pager = await Pager.ensure({ bin: BUILT.pager, runDir: join(dir, 'run'), storeDir });
  const engine = await FirecrackerEngine.create({ dir: join(dir, 'engine') });
  // Files of the right kind, which are never executed.
  const kernel = { vmlinuz: BUILT.agent, initramfs: BUILT.agent };
  const common = { id: 'vm', dir: join(dir, 'vm'), rootImage: BUILT.agent, pager };
  const vm = await engine.boot({ ...common, memMib: MEM_MIB, vcpus: 1, kernel });
  try {
    await vm.branch({ mode: 'full', resume: true });
    const done = await vm.branch({ mode: 'diff', resume: false });
    expect(done.stack).toHaveLength(2);
    const path = join(dir, 'truth');
    await vm.api.createSnapshot({ snapshot_type: 'Full', snapshot_path: `${path}.state`, mem_file_path: path });
    const rootDisk = await store.putFile(BUILT.agent);
    const draft = (tag: string, name: string) => ({
      ...contents(tag, name, engine),
      ...blobsOf(done),
      rootDisk,
      disk: [],
    });
    await store.writeSnapshot(draft('made', 'firecracker'));
    await store.writeSnapshot(draft('of-qemu', 'qemu'));
    return await readFile(path);
  } finally {
    await vm.kill();
    await pager.shutdown();
  }
}

function contents(tag: string, name: string, engine: FirecrackerEngine): { config: SnapshotConfig } {
  const image = { env: { LANG: 'C' }, workdir: '/srv', user: 'root', entrypoint: [], cmd: [] };
  const machine = { ...engine.machine(MEM_MIB, 1), engine: name };
  return {
    config: {
      format: 1,
      tag,
      created_at_unix: 1,
      machine,
      image,
      source: 'a test',
      python: true,
      refresh: null,
      safety: 'standard',
      parent_tag: null,
      keeps_parent: false,
      parent_digest: null,
      branched_from: null,
      stats: {},
    },
  };
}

function blobsOf(done: BranchDone) {
  const blobOf = ({ digest, size }: { digest: string; size: number }) => ({ digest: asDigest(digest), size });
  return { memory: done.stack.map(blobOf), deviceState: blobOf(done.device_state) };
}

function exported(name: string): Promise<string> {
  const target = join(out, name);
  return controller.client.exportSnapshot('made', { format: 'firecracker', dir: target }).then(() => target);
}

const importing = (tag: string, from: string, more: { rootfs?: string; vcpus?: number } = {}) =>
  controller.client.importSnapshot(tag, { format: 'firecracker', dir: from, ...more });

/** Pages in which two memories differ. */
function differing(a: Buffer, b: Buffer): number[] {
  expect(a.length).toBe(b.length);
  const pages = Array.from({ length: a.length / PAGE_BYTES }, (_, page) => page);
  return pages.filter((page) => {
    const [start, end] = [page * PAGE_BYTES, (page + 1) * PAGE_BYTES];
    return a.compare(b, start, end, start, end) !== 0;
  });
}

test('an export is loadable by Firecracker, with holes for zeros and the root image beside it', async () => {
  const target = join(out, 'files');
  const done = await controller.client.exportSnapshot('made', { format: 'firecracker', dir: target });
  expect(done).toMatchObject({ tag: 'made', format: 'firecracker', dir: target, memory_logical_bytes: MEM_BYTES });
  expect((await readdir(target)).toSorted()).toEqual(['forkd.json', 'memory.bin', 'root.img', 'vmstate']);
  expect(differing(await readFile(join(target, 'memory.bin')), truth)).toEqual([]);
  expect((await stat(join(target, 'memory.bin'))).blocks * 512).toBe(done.memory_physical_bytes);
  const filled = differing(truth, Buffer.alloc(MEM_BYTES)).length * PAGE_BYTES;
  expect(filled).toBeLessThan(MEM_BYTES);
  expect(done.memory_physical_bytes).toBeLessThan(filled + SLACK_BYTES);
  expect((await readFile(join(target, 'root.img'))).equals(await readFile(BUILT.agent))).toBe(true);
  expect((await stat(target)).mode & 0o777).toBe(0o700);
  // A Firecracker that is started there loads it as it is.
  const firecracker = spawn('firecracker', ['--api-sock', 'api.sock'], { cwd: target, stdio: 'ignore' });
  const ended = once(firecracker, 'exit');
  try {
    const socketPath = join(target, 'api.sock');
    await until('it listens', 10_000, () =>
      stat(socketPath).then(
        () => true,
        () => false,
      ),
    );
    expect(await load(socketPath)).toBe(204);
  } finally {
    firecracker.kill('SIGKILL');
    await ended;
  }
});

/** The status of what a Firecracker answers to a load out of the directory that it was started in. */
async function load(socketPath: string): Promise<number | undefined> {
  const asked = request({ socketPath, method: 'PUT', path: '/snapshot/load' });
  asked.end(
    JSON.stringify({
      snapshot_path: 'vmstate',
      mem_backend: { backend_type: 'File', backend_path: 'memory.bin' },
      resume_vm: false,
    }),
  );
  const [reply] = (await once(asked, 'response')) as [IncomingMessage];
  reply.resume();
  return reply.statusCode;
}

test('an export is imported under another tag, and its children have the same memory byte for byte', async () => {
  const target = await exported('files');
  const info = await importing('back', target);
  expect(info).toMatchObject({ tag: 'back', status: 'ready', durable: true, bootable: true, mem_mib: MEM_MIB });
  const again = await importing('again', target);
  expect(again.status).toBe('ready');
  const store = await Store.open(join(dir, 'data/store'));
  const [made, back, twice] = await Promise.all(['made', 'back', 'again'].map((tag) => store.readSnapshot(tag)));
  // The import is one base layer; all else is unchanged.
  expect(back?.memory).toHaveLength(1);
  const filled = differing(truth, Buffer.alloc(MEM_BYTES)).length * PAGE_BYTES;
  expect(back?.memory[0]?.size).toBeLessThan(filled + SLACK_BYTES);
  expect(twice?.memory).toEqual(back?.memory);
  expect([back?.deviceState, back?.rootDisk]).toEqual([made?.deviceState, made?.rootDisk]);
  expect(back?.config).toMatchObject({ image: made?.config.image, machine: made?.config.machine, python: true });

  const stack = back?.memory.map(({ digest }) => digest) ?? [];
  const deviceState = store.blobPath(asDigest(back?.deviceState.digest ?? ''));
  const elsewhere = join(out, 'fork');
  await cp(store.dir, join(elsewhere, 'store'), { recursive: true });
  const pager = await Pager.ensure({
    bin: BUILT.pager,
    runDir: join(elsewhere, 'run'),
    storeDir: join(elsewhere, 'store'),
  });
  try {
    const path = join(elsewhere, 'memory');
    await pager.exportMemory(MEM_BYTES, stack, path);
    expect(differing(await readFile(path), truth)).toEqual([]);
    const engine = await FirecrackerEngine.create({ dir: join(elsewhere, 'engine') });
    const common = { id: 'child', dir: join(elsewhere, 'child'), rootImage: BUILT.agent, pager };
    const child = await engine.restore({ ...common, machine: engine.machine(MEM_MIB, 1), stack, deviceState });
    try {
      const own = await child.branch({ mode: 'diff', resume: false });
      await pager.exportMemory(
        MEM_BYTES,
        own.stack.map(({ digest }) => digest),
        `${path}.child`,
      );
      // Only what the child has written since is its own.
      expect(differing(await readFile(`${path}.child`), truth)).toHaveLength(own.stats.captured_pages);
    } finally {
      await child.kill();
    }
  } finally {
    await pager.shutdown();
  }
});

test('the command exports and imports relative to its working directory', async () => {
  const forkd = (...args: string[]) =>
    run(
      process.execPath,
      [join(REPO, 'packages/cli/bundle/forkd.js'), 'snapshot', ...args, '--format', 'firecracker'],
      {
        cwd: out,
        env: { ...process.env, FORKD_SOCKET: controller.socket, FORKD_DATA_DIR: data },
      },
    );
  expect((await forkd('export', 'mad', 'here')).stdout).toMatch(new RegExp(`^${out}/here {2}.* of memory\n$`));
  expect((await forkd('import', 'here', 'there')).stdout).toBe('there\n');
  await expect(forkd('import', 'here', 'there')).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringContaining("There is a snapshot 'there' already") as string,
  });
});

test('an import of files from another program takes the named root image, and memory from the file size', async () => {
  const target = await exported('files');
  await unlink(join(target, 'forkd.json'));
  await expect(importing('theirs', target)).rejects.toMatchObject({
    code: 'import_invalid',
    status: 400,
    message: expect.stringContaining('has no forkd.json') as string,
  });
  await expect(importing('theirs', target, { rootfs: join(target, 'vmstate') })).rejects.toMatchObject({
    code: 'image_invalid',
  });
  const rootfs = join(out, 'root.erofs');
  const superblock = Buffer.alloc(8192);
  superblock.writeUInt32LE(0xe0f5e1e2, 1024);
  await writeFile(rootfs, superblock);
  const state = join(target, 'vmstate');
  await copyFile(state, `${state}.whole`);
  await truncate(state, 200);
  const refused = await importing('theirs', target, { rootfs }).catch((error: unknown) => error);
  expect(refused).toMatchObject({
    code: 'import_invalid',
    message: expect.stringContaining('It cannot be loaded: ') as string,
  });
  // A load that fails ends Firecracker: its words are its answer, or the last of its log.
  const { message, hint } = refused as ForkdError;
  expect(`${message} ${hint}`).toContain('CRC64 validation failed');
  expect(await controller.sandboxDirs()).toEqual([]);
  await rename(`${state}.whole`, state);
  expect(await importing('theirs', target, { rootfs, vcpus: 2 })).toMatchObject({ status: 'ready', mem_mib: MEM_MIB });
  expect(await controller.sandboxDirs()).toEqual([]);
  const store = await Store.open(join(data, 'store'));
  const { config, rootDisk } = await store.readSnapshot('theirs');
  expect(config).toMatchObject({ machine: { engine: 'firecracker', vcpus: 2 }, source: `firecracker ${target}` });
  expect(rootDisk.size).toBe(superblock.length);
});

test('an export that is refused is refused before anything is written', async () => {
  const { client } = controller;
  const target = join(out, 'files');
  const refused = (tag: string, to: string) => client.exportSnapshot(tag, { format: 'firecracker', dir: to });
  await expect(refused('of-qemu', target)).rejects.toMatchObject({
    code: 'unsupported',
    status: 400,
    message: expect.stringContaining("'of-qemu' was taken with qemu, whose device state") as string,
  });
  await expect(refused('none', target)).rejects.toMatchObject({ code: 'not_found_snapshot', status: 404 });
  await expect(refused('made', 'files')).rejects.toMatchObject({ code: 'bad_path', status: 400 });
  await expect(refused('made', join(out, 'nowhere/files'))).rejects.toMatchObject({ code: 'bad_path', status: 400 });
  await mkdir(target);
  await expect(refused('made', target)).rejects.toMatchObject({ code: 'target_exists', status: 409 });
  expect(await readdir(out)).toEqual(['files']);
  expect(await readdir(target)).toEqual([]);
});

test('an export without enough disk space leaves nothing behind', async (context) => {
  context.skip(process.geteuid?.() !== 0, 'only root mounts');
  const disk = join(out, 'disk');
  await mkdir(disk);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', disk]);
  try {
    const dirs = { format: 'firecracker', dir: join(disk, 'files') } as const;
    await expect(controller.client.exportSnapshot('made', dirs)).rejects.toMatchObject({
      code: 'disk_full',
      status: 507,
    });
    expect(await readdir(disk)).toEqual([]);
  } finally {
    await run('umount', [disk]);
  }
});

test.each<[string, (files: string) => Promise<void>, string]>([
  ['no device state', (files) => unlink(join(files, 'vmstate')), 'There is no '],
  ['another device state', (files) => writeFile(join(files, 'vmstate'), 'torn'), 'is not the file that was exported'],
  ['no memory', (files) => unlink(join(files, 'memory.bin')), 'There is no '],
  ['half a memory', (files) => truncate(join(files, 'memory.bin'), MEM_BYTES / 2), 'has 16 MiB, and 32 were exported'],
  ['a torn memory', (files) => truncate(join(files, 'memory.bin'), MEM_BYTES - 1), 'which is no number of MiB'],
  ['a torn description', (files) => truncate(join(files, 'forkd.json'), 100), 'is not JSON'],
  ['an empty description', (files) => writeFile(join(files, 'forkd.json'), '{}'), 'does not describe an export'],
])('an import of %s is refused, and leaves nothing', async (_, damage, words) => {
  const target = await exported('files');
  await damage(target);
  const before = (await controller.client.listSnapshots()).map(({ tag }) => tag);
  await expect(importing('broken', target)).rejects.toMatchObject({
    code: 'import_invalid',
    status: 400,
    message: expect.stringContaining(words) as string,
  });
  expect((await controller.client.listSnapshots()).map(({ tag }) => tag)).toEqual(before);
});

test('an import without the root image needs a store that has it, or its path', async () => {
  const target = await exported('files');
  await unlink(join(target, 'root.img'));
  expect((await importing('known', target)).status).toBe('ready');
  const path = join(target, 'forkd.json');
  const said = JSON.parse(await readFile(path, 'utf8')) as { root_image: { digest: string } };
  said.root_image.digest = `sha256:${'0'.repeat(64)}`;
  await writeFile(path, JSON.stringify(said));
  await expect(importing('unknown', target)).rejects.toMatchObject({
    code: 'import_invalid',
    message: expect.stringContaining('root.img') as string,
  });
  await expect(importing('unknown', target, { rootfs: BUILT.agent })).rejects.toMatchObject({
    code: 'import_invalid',
    message: expect.stringContaining('its bytes are others') as string,
  });
});
