/** Bytes in a MiB. */
export const MIB = 2 ** 20;

/** The size of a machine's guest memory in bytes. */
export function memBytesOf({ mem_mib: memMib }: { mem_mib: number }): number {
  return memMib * MIB;
}
