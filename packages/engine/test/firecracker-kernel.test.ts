/**
 * Firecracker loads ELF files: what is packed into a bzImage is found by its setup header and unpacked, in each of the formats
 * that kernels are packed with, and every image that cannot be used is told apart. The images are made here, byte by byte; the
 * distribution's own kernel is tried by tests/e2e/firecracker.test.ts.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ensureElfKernel } from '../src/firecracker/kernel.ts';

const SETUP_SECTORS = 2;
const PAYLOAD_OFFSET = 0x40;

let dir: string;
let elf: Buffer;

beforeEach(async () => {
  dir = await mkdtemp('/tmp/fk-kernel-');
  elf = Buffer.concat([Buffer.from('\x7fELF', 'latin1'), randomBytes(20_000), Buffer.alloc(200_000)]);
});

afterEach(async () => {
  await rm(dir, { recursive: true });
});

interface Header {
  sectors?: number;
  protocol?: number;
  payloadBytes?: number;
}

/** An image with `payload` where its header says. */
async function bzImage(payload: Buffer, header: Header = {}): Promise<string> {
  const { sectors = SETUP_SECTORS, protocol = 0x20f, payloadBytes = payload.length } = header;
  const setup = Buffer.alloc(((sectors || 4) + 1) * 512);
  setup.writeUInt8(sectors, 0x1f1);
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt16LE(protocol, 0x206);
  setup.writeUInt32LE(PAYLOAD_OFFSET, 0x248);
  setup.writeUInt32LE(payloadBytes, 0x24c);
  const path = join(dir, `vmlinuz-${randomBytes(4).toString('hex')}`);
  await writeFile(path, Buffer.concat([setup, randomBytes(PAYLOAD_OFFSET), payload, randomBytes(700)]));
  return path;
}

/** As the kernel's build appends it. */
function withSize(packed: Buffer): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(elf.length);
  return Buffer.concat([packed, size]);
}

test('an ELF file is used as it is', async () => {
  const path = join(dir, 'vmlinux');
  await writeFile(path, elf);
  expect(await ensureElfKernel(path, dir)).toBe(path);
});

for (const [program, option] of [
  ['xz', '--check=crc32'],
  ['zstd', '-q'],
  ['lz4', '-l'],
  ['bzip2', '-9'],
  ['xz', '--format=lzma'],
] as const) {
  test(`a kernel packed with ${program} ${option} is unpacked`, async (context) => {
    const packed = spawnSync(program, [option, '-c'], { input: elf, maxBuffer: 1 << 24 });
    context.skip(packed.error !== undefined, `there is no ${program} here to pack a kernel with`);
    expect(packed.status).toBe(0);
    const path = await ensureElfKernel(await bzImage(withSize(packed.stdout)), dir);
    expect((await readFile(path)).equals(elf)).toBe(true);
  });
}

test('a kernel packed with gzip and without a setup size is unpacked once', async () => {
  const image = await bzImage(gzipSync(elf), { sectors: 0 });
  const path = await ensureElfKernel(image, dir);
  expect((await readFile(path)).equals(elf)).toBe(true);
  await writeFile(path, 'as it was left');
  expect(await ensureElfKernel(image, dir)).toBe(path);
  expect(await readFile(path, 'utf8')).toBe('as it was left');
  expect(await readdir(join(dir, 'kernels'))).toHaveLength(1);
});

test('an image that cannot be used is refused with the reason, and nothing is kept', async () => {
  const other = join(dir, 'other');
  await writeFile(other, randomBytes(4096));
  const packed = gzipSync(elf);
  const cases: [string, RegExp][] = [
    [join(dir, 'nowhere'), /it cannot be read/],
    [other, /neither an ELF file nor a bzImage/],
    [await bzImage(packed, { protocol: 0x207 }), /its boot protocol, 207, does not say where the kernel is/],
    [await bzImage(packed, { payloadBytes: 1 << 30 }), /it is cut short/],
    [await bzImage(Buffer.from('payload of nobody')), /packed in a way that is not known \(7061796c…\)/],
    [await bzImage(packed.subarray(0, 100)), /packed with gzip, and unpacking it failed/],
    [await bzImage(gzipSync(randomBytes(1000))), /what is packed into it is no ELF file/],
  ];
  for (const [path, why] of cases) {
    await expect(ensureElfKernel(path, dir)).rejects.toMatchObject({ code: 'kernel_unusable', message: why });
  }
  expect(await readdir(dir)).not.toContain('kernels');
});

test('a missing unpacker is named', async () => {
  const before = process.env['PATH'];
  const image = await bzImage(Buffer.from([0x28, 0xb5, 0x2f, 0xfd, ...randomBytes(100)]));
  process.env['PATH'] = dir;
  try {
    await expect(ensureElfKernel(image, dir)).rejects.toThrow('the program zstd is missing');
  } finally {
    process.env['PATH'] = before;
  }
});
