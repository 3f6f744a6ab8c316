import type { StoredSnapshot } from './snapshot.ts';

/** The fields of a snapshot that decide its place among the others. */
export type Link = Pick<StoredSnapshot, 'tag' | 'manifest' | 'config'>;

/**
 * The snapshots that `tag` descends from, root first. A parent is found by the digest of its manifest, so a tag that
 * was removed and given again is not mistaken for it; the chain ends where a parent was removed.
 */
export function ancestorsOf(tag: string, all: readonly Link[]): string[] {
  const byDigest = new Map(all.map((link) => [link.manifest.digest, link]));
  const chain: string[] = [];
  let current = all.find((link) => link.tag === tag);
  while (current !== undefined && current.config.parent_digest !== null) {
    current = byDigest.get(current.config.parent_digest);
    // A digest cannot depend on itself, so there is no cycle; the length is checked all the same.
    if (current === undefined || chain.length > all.length) break;
    chain.unshift(current.tag);
  }
  return chain;
}

/** The snapshots that descend from `tag` directly and keep it, by name. */
export function dependentsOf(tag: string, all: readonly Link[]): string[] {
  const self = all.find((link) => link.tag === tag);
  if (self === undefined) return [];
  return all
    .filter(({ config }) => config.keeps_parent && config.parent_digest === self.manifest.digest)
    .map((link) => link.tag)
    .toSorted();
}

/** All that descends from `tag` and keeps it, each before what it descends from. */
export function descendantsOf(tag: string, all: readonly Link[]): string[] {
  const children = dependentsOf(tag, all);
  return children.flatMap((child) => [...descendantsOf(child, all), child]);
}
