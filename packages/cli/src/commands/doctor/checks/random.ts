import type { SnapshotInfo } from '@forkd/api';
import type { Check } from '../check.ts';
import type { Facts } from '../facts.ts';
import { ofController, pass, skip, warn, type Finding } from '../row.ts';

export const randomChecks: readonly Check[] = [{ id: 'random_numbers', look: random }];

const NAMES_MAX = 5;
const LATE =
  'a child of these draws the random numbers of its siblings until it has its identity; build the templates again';

/** Checks that children draw their own random numbers from the start. This depends on the guest kernel of the snapshot. */
async function random(facts: Facts): Promise<Finding> {
  const snapshots = await facts.snapshots();
  if (snapshots === undefined) return skip("a controller that runs says from when on they are a child's own");
  return ofController(randomOf(snapshots));
}

function randomOf(snapshots: readonly SnapshotInfo[]): Finding {
  const own = snapshots.filter((snapshot) => snapshot.random_numbers === 'from_start').length;
  const late = snapshots.filter((snapshot) => snapshot.random_numbers === 'after_identity');
  if (own + late.length === 0) return skip('the first template finds out');
  if (late.length === 0) return pass(`a child's own from its first instruction on, of all ${own} snapshots`);
  const names = late.slice(0, NAMES_MAX).map(({ tag }) => tag);
  const more = late.length > names.length ? ` and ${late.length - names.length} more` : '';
  const reasons = [...new Set(late.flatMap(({ warning }) => warning ?? []))].slice(0, 1);
  return warn(`late in children of ${names.join(', ')}${more}`, [LATE, ...reasons].join('. '));
}
