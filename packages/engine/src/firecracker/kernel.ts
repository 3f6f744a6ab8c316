import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { EngineError } from '../errors.ts';
import { exists } from '../files.ts';

const ELF_MAGIC = Buffer.from('\x7fELF', 'latin1');
/** The first version of the boot protocol whose header says where the payload is. */
const PROTOCOL_WITH_PAYLOAD = 0x208;
const SECTOR_BYTES = 512;
/** Length of the number that the kernel's build appends to a payload: its unpacked size. */
const SIZE_BYTES = 4;
const KERNEL_BYTES_MAX = 1 << 30;

/** How payloads begin, and what unpacks them. */
const FORMATS: readonly { name: string; magic: readonly number[]; command: readonly [string, ...string[]] | 'zlib' }[] =
  [
    { name: 'gzip', magic: [0x1f, 0x8b], command: 'zlib' },
    { name: 'xz', magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], command: ['xz', '-dc', '--single-stream'] },
    { name: 'zstd', magic: [0x28, 0xb5, 0x2f, 0xfd], command: ['zstd', '-dcq'] },
    { name: 'lz4', magic: [0x02, 0x21, 0x4c, 0x18], command: ['lz4', '-dcq'] },
    { name: 'bzip2', magic: [0x42, 0x5a, 0x68], command: ['bzip2', '-dc'] },
    { name: 'lzma', magic: [0x5d, 0, 0], command: ['xz', '-dc', '--format=lzma'] },
  ];

/**
 * The path of a kernel as the ELF file that Firecracker loads: the file itself if it is one, else what is packed into a
 * bzImage, unpacked once and kept in `cacheDir`. Throws `kernel_unusable` with the reason.
 */
export async function ensureElfKernel(kernel: string, cacheDir: string, signal?: AbortSignal): Promise<string> {
  const image = await readFile(kernel, { signal }).catch((cause: unknown) => {
    signal?.throwIfAborted();
    throw unusable(kernel, 'it cannot be read', cause);
  });
  if (isElf(image)) return kernel;
  const dir = join(cacheDir, 'kernels');
  const path = join(dir, `${createHash('sha256').update(image).digest('hex')}.elf`);
  if (await exists(path)) return path;
  const elf = await unpack(kernel, payloadOf(kernel, image), signal);
  if (!isElf(elf)) throw unusable(kernel, 'what is packed into it is no ELF file');
  await mkdir(dir, { recursive: true });
  const draft = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    await writeFile(draft, elf, { signal });
    await rename(draft, path);
  } finally {
    await rm(draft, { force: true });
  }
  return path;
}

/** Finds the payload by the setup header of a bzImage (the kernel's Documentation/arch/x86/boot.rst). */
function payloadOf(kernel: string, image: Buffer): Buffer {
  if (image.length < 0x250 || image.toString('latin1', 0x202, 0x206) !== 'HdrS') {
    throw unusable(kernel, 'it is neither an ELF file nor a bzImage');
  }
  const protocol = image.readUInt16LE(0x206);
  if (protocol < PROTOCOL_WITH_PAYLOAD) {
    throw unusable(kernel, `its boot protocol, ${protocol.toString(16)}, does not say where the kernel is`);
  }
  // Zero stands for four, says the protocol.
  const setupSectors = image.readUInt8(0x1f1) || 4;
  const start = (setupSectors + 1) * SECTOR_BYTES + image.readUInt32LE(0x248);
  const end = start + image.readUInt32LE(0x24c);
  if (start === end || end > image.length) throw unusable(kernel, 'it is cut short');
  return image.subarray(start, end);
}

async function unpack(kernel: string, payload: Buffer, signal: AbortSignal | undefined): Promise<Buffer> {
  if (isElf(payload)) return payload;
  const format = FORMATS.find(({ magic }) => magic.every((byte, index) => payload[index] === byte));
  if (!format) throw unusable(kernel, `it is packed in a way that is not known (${payload.toString('hex', 0, 4)}…)`);
  try {
    if (format.command === 'zlib') return gunzipSync(payload, { maxOutputLength: KERNEL_BYTES_MAX });
    return await through(format.command, payload.subarray(0, -SIZE_BYTES), signal);
  } catch (cause) {
    signal?.throwIfAborted();
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    const why = missing ? `the program ${format.command[0]} is missing` : (cause as Error).message;
    throw unusable(kernel, `it is packed with ${format.name}, and unpacking it failed: ${why}`, cause);
  }
}

/** Pipes `input` through a program. */
function through(
  [program, ...args]: readonly [string, ...string[]],
  input: Buffer,
  signal?: AbortSignal,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], ...(signal && { signal }) });
    const parts: Buffer[] = [];
    let length = 0;
    let said = '';
    child.stdout.on('data', (part: Buffer) => {
      length += part.length;
      if (length > KERNEL_BYTES_MAX) child.kill('SIGKILL');
      else parts.push(part);
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-500)));
    child.once('error', reject);
    child.once('close', (status, ended) => {
      if (status === 0) resolve(Buffer.concat(parts));
      else reject(new Error(said.trim() || `it ended with ${ended ?? `status ${status}`}`));
    });
    // A program that stops reading reports the reason itself.
    child.stdin.on('error', () => undefined).end(input);
  });
}

function isElf(bytes: Buffer): boolean {
  return bytes.subarray(0, ELF_MAGIC.length).equals(ELF_MAGIC);
}

function unusable(kernel: string, why: string, cause?: unknown): EngineError {
  return new EngineError('kernel_unusable', `Firecracker cannot start the kernel ${kernel}: ${why}.`, {
    hint: 'Give an uncompressed vmlinux, or a bzImage whose packer is installed.',
    cause,
  });
}
