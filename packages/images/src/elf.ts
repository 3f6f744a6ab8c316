/** Reads x86-64 ELF files: whether a program is static, and the description in a kernel module. */

const PROGRAM_INTERPRETER = 3;
const EM_X86_64 = 62;

/** Whether these bytes are a 64-bit little-endian x86-64 executable that needs no dynamic loader. */
export function isStaticExecutable(elf: Buffer): boolean {
  if (!isElf64(elf) || elf.readUInt16LE(18) !== EM_X86_64) return false;
  const tableOffset = Number(elf.readBigUInt64LE(32));
  const entrySize = elf.readUInt16LE(54);
  const entryCount = elf.readUInt16LE(56);
  if (entryCount === 0 || tableOffset + entrySize * entryCount > elf.length) return false;
  for (let index = 0; index < entryCount; index++) {
    if (elf.readUInt32LE(tableOffset + index * entrySize) === PROGRAM_INTERPRETER) return false;
  }
  return true;
}

/**
 * The values of a field of a module's `.modinfo`, such as `depends`. Read from the module itself, because the package
 * does not carry `modules.dep`: depmod makes it when a kernel is installed, and this one never is.
 */
export function moduleInfo(module: Buffer, field: string): string[] {
  const section = elfSection(module, '.modinfo');
  return section
    .toString('latin1')
    .split('\0')
    .filter((entry) => entry.startsWith(`${field}=`))
    .map((entry) => entry.slice(field.length + 1));
}

function isElf64(bytes: Buffer): boolean {
  return bytes.length >= 64 && bytes.readUInt32BE(0) === 0x7f454c46 && bytes[4] === 2 && bytes[5] === 1;
}

function elfSection(elf: Buffer, name: string): Buffer {
  if (!isElf64(elf)) throw new Error('not a 64-bit ELF file');
  const tableOffset = Number(elf.readBigUInt64LE(40));
  const entrySize = elf.readUInt16LE(58);
  const sections = Array.from({ length: elf.readUInt16LE(60) }, (_, index) => {
    const at = tableOffset + index * entrySize;
    const start = Number(elf.readBigUInt64LE(at + 24));
    return {
      nameOffset: elf.readUInt32LE(at),
      bytes: elf.subarray(start, start + Number(elf.readBigUInt64LE(at + 32))),
    };
  });
  const names = sections[elf.readUInt16LE(62)]?.bytes ?? Buffer.alloc(0);
  const nameOf = (offset: number) => names.toString('latin1', offset, names.indexOf(0, offset));
  return sections.find((section) => nameOf(section.nameOffset) === name)?.bytes ?? Buffer.alloc(0);
}
