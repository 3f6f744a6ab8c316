/** The sources of each composed signal, for as long as it is in use. */
const sourcesOf = new WeakMap<AbortSignal, readonly AbortSignal[]>();

/**
 * A signal that fires with the first of the given ones; `undefined` is left out. Use it in place of AbortSignal.any, which holds
 * its sources weakly: in Node 20 an AbortSignal.timeout that nothing else refers to is collected as garbage and never fires.
 */
export function anySignal(...signals: readonly (AbortSignal | undefined)[]): AbortSignal {
  const sources = signals.filter((signal) => signal !== undefined);
  // oxlint-disable-next-line no-restricted-properties -- The sources are kept on the next line.
  const any = AbortSignal.any(sources);
  sourcesOf.set(any, sources);
  return any;
}
