// Proves which numbers of a branch are whole on the wire, as older clients read them.
import { SnapshotInfo } from '@forkd/api';
import { Value } from 'typebox/value';
import { expect, test } from 'vitest';
import { infoOfDraft, statsOf } from '../src/state/describe.ts';
import { Draft } from '../src/state/draft.ts';
import { image, machine, statsOf as measured } from './support.ts';

test('milliseconds that older clients read are whole, and the exact times are beside them', () => {
  const draft = new Draft({
    tag: 'leaf',
    createdAtUnix: 1,
    machine,
    image,
    source: 'recipe',
    python: false,
    refresh: null,
    safety: 'standard',
    network: null,
    parent: { tag: 'base', digest: null },
    keepsParent: false,
    branchedFrom: 'sb-1',
  });
  draft.stats = statsOf(measured({ pause_us: 345, capture_us: 2001, ready_us: 3000 }), 'live', machine.mem_mib);
  const info = infoOfDraft(draft, '/store');
  expect(info).toMatchObject({ pause_ms: 1, pause_us: 345, diff_ms: 3, capture_ms: 2.001 });
  expect(Value.Check(SnapshotInfo, info)).toBe(true);
});
