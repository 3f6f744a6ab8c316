import { unixNow } from '../clock.ts';
import type { DraftFacts } from '../state/draft.ts';

type Known = Pick<DraftFacts, 'machine' | 'image' | 'source' | 'python' | 'refresh' | 'safety' | 'network'>;

/** The facts of a snapshot that is made now and has no parent. */
export function newFacts(tag: string, { machine, image, source, python, refresh, safety, network }: Known): DraftFacts {
  const createdAtUnix = unixNow();
  const origin = { parent: null, keepsParent: false, branchedFrom: null };
  return { tag, createdAtUnix, machine, image, source, python, refresh, safety, network, ...origin };
}
