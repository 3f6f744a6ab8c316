import type { ListSandboxesQuery, SandboxInfo, SnapshotInfo } from '@forkd/api';
import { mismatchOf } from '../runtime/engines.ts';
import type { Host } from './host.ts';

/** The sandboxes that match a query. Those that have ended are listed only if the query asks for them. */
export function listSandboxes({ registry }: Pick<Host, 'registry'>, query: ListSandboxesQuery): SandboxInfo[] {
  const matches = matcherOf(query);
  const infos = query.state === 'ended' ? registry.ended.list() : registry.list().map((sandbox) => sandbox.info());
  return infos.filter(matches);
}

type SnapshotsHost = Pick<Host, 'catalog' | 'vmm'>;

/** All snapshots, including those in the making. */
export async function listSnapshots(host: SnapshotsHost): Promise<SnapshotInfo[]> {
  return withMismatches(host, await host.catalog.list());
}

export async function getSnapshot(host: SnapshotsHost, tag: string): Promise<SnapshotInfo> {
  const info = await host.catalog.info(tag);
  const [found = info] = await withMismatches(host, [info]);
  return found;
}

/** Adds to snapshots on disk why the engine cannot restore them, if it is up or being started. */
async function withMismatches({ catalog, vmm }: SnapshotsHost, infos: SnapshotInfo[]): Promise<SnapshotInfo[]> {
  const engine = await vmm.engineOnceUp();
  if (engine === null) return infos;
  const machines = new Map((await catalog.stored()).map(({ tag, config }) => [tag, config.machine] as const));
  return infos.map((info) => {
    const machine = machines.get(info.tag);
    const mismatch = machine && mismatchOf(engine, info.tag, machine);
    return mismatch === undefined ? info : { ...info, mismatch };
  });
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
