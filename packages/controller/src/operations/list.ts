import type { ListSandboxesQuery, SandboxInfo, SnapshotInfo } from '@forkd/api';
import type { Host } from './host.ts';

/** The sandboxes that match a query. Those that have ended are listed only if the query asks for them. */
export function listSandboxes({ registry }: Pick<Host, 'registry'>, query: ListSandboxesQuery): SandboxInfo[] {
  const matches = matcherOf(query);
  const infos = query.state === 'ended' ? registry.ended.list() : registry.list().map((sandbox) => sandbox.info());
  return infos.filter(matches);
}

/** All snapshots, including those in the making. */
export function listSnapshots({ catalog }: Pick<Host, 'catalog'>): Promise<SnapshotInfo[]> {
  return catalog.list();
}

function matcherOf(query: ListSandboxesQuery): (info: SandboxInfo) => boolean {
  const wanted = [query.label ?? []].flat().map((text) => {
    const [key = '', ...value] = text.split('=');
    return { key, value: value.length > 0 ? value.join('=') : null };
  });
  return (info) =>
    (query.name === undefined || info.name === query.name) &&
    (query.snapshot_tag === undefined || info.snapshot_tag === query.snapshot_tag) &&
    (query.workspace === undefined || info.workspace === query.workspace) &&
    (query.state === undefined || info.state === query.state) &&
    wanted.every(({ key, value }) => {
      const { labels = {} } = info;
      return Object.hasOwn(labels, key) && (value === null || labels[key] === value);
    });
}
