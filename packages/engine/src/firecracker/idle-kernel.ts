/** The lowest address at which Firecracker's kernels begin. */
const BASE = 0x10_0000;
const HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;

/** `cli`, then `hlt` for ever: it needs no device, and the processor rests. */
const CODE = Buffer.from([0xfa, 0xf4, 0xeb, 0xfd]);

/** A kernel as an ELF file that does nothing, to try out what becomes of a VM. */
export function idleKernel(): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.write('\x7fELF', 'latin1');
  // 64 bits, little-endian, version 1; an executable for x86-64.
  header.set([2, 1, 1], 4);
  header.writeUInt16LE(2, 16);
  header.writeUInt16LE(62, 18);
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(BASE), 24);
  header.writeBigUInt64LE(BigInt(HEADER_BYTES), 32);
  header.writeUInt16LE(HEADER_BYTES, 52);
  header.writeUInt16LE(PROGRAM_HEADER_BYTES, 54);
  header.writeUInt16LE(1, 56);
  const segment = Buffer.alloc(PROGRAM_HEADER_BYTES);
  // Loaded, to be read and run.
  segment.writeUInt32LE(1, 0);
  segment.writeUInt32LE(5, 4);
  segment.writeBigUInt64LE(BigInt(HEADER_BYTES + PROGRAM_HEADER_BYTES), 8);
  segment.writeBigUInt64LE(BigInt(BASE), 16);
  segment.writeBigUInt64LE(BigInt(BASE), 24);
  segment.writeBigUInt64LE(BigInt(CODE.length), 32);
  segment.writeBigUInt64LE(BigInt(CODE.length), 40);
  segment.writeBigUInt64LE(BigInt(4096), 48);
  return Buffer.concat([header, segment, CODE]);
}
