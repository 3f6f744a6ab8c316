/** The wall clock of this host, in whole seconds. */
export function unixNow(): number {
  return Math.floor(Date.now() / 1000);
}

/** The wall clock of this host, in nanoseconds. */
export function unixNsNow(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}
