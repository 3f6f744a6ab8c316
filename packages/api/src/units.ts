/** Bytes in a MiB. */
export const MIB = 2 ** 20;

/** Bytes in a GiB. */
export const GIB = 2 ** 30;

/** The size of a machine's guest memory in bytes. */
export function memBytesOf({ mem_mib: memMib }: { mem_mib: number }): number {
  return memMib * MIB;
}

/** The index of the first place that is not inside of guest memory; -1 if all are. */
export function indexOutside(places: readonly { at: number; bytes: number }[], machine: { mem_mib: number }): number {
  const memBytes = memBytesOf(machine);
  return places.findIndex(({ at, bytes }) => at < 0 || at + bytes > memBytes);
}
