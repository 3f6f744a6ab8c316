import { EngineError } from '../errors.ts';
import type { FirecrackerApi } from './api.ts';
import type { SnapshotLoad } from './requests.ts';

/** The first version of Firecracker with everything that forkd needs. */
const VERSION_MIN = '1.7.0';

/** Extensions of a build, found by trying and never derived from a version. */
export interface Extensions {
  /** `mem_backend.shared`: memory that is mapped so that others see it. */
  sharedMemory: boolean;
  /** The snapshot type `VmstateOnly`. */
  vmstateOnly: boolean;
  /** `PUT /uffd/wp`. */
  writeProtect: boolean;
}

export interface Features extends Extensions {
  version: string;
  /** The name under which a load is told to keep count of what is written. */
  trackField: 'track_dirty_pages' | 'enable_diff_snapshots';
  networkOverrides: boolean;
  vsockOverride: boolean;
}

/** Throws `engine_missing` for a version that is too old. */
export function featuresOf(version: string, extensions: Extensions): Features {
  if (isBefore(version, VERSION_MIN)) {
    throw new EngineError('engine_missing', `Firecracker ${version} is older than ${VERSION_MIN}.`, {
      hint: 'Install a newer release from https://github.com/firecracker-microvm/firecracker/releases.',
    });
  }
  return {
    ...extensions,
    version,
    trackField: isBefore(version, '1.13.0') ? 'enable_diff_snapshots' : 'track_dirty_pages',
    networkOverrides: !isBefore(version, '1.12.0'),
    vsockOverride: !isBefore(version, '1.16.0'),
  };
}

/**
 * Tries the extensions on a Firecracker that has no VM. Each request is one that would fail for another reason, without doing
 * anything, where the extension is known; a field that nobody can know shows whether unknown ones are refused at all.
 */
export async function probeExtensions(api: FirecrackerApi, signal?: AbortSignal): Promise<Extensions> {
  const refusal = (method: 'PUT', path: string, body: object) => api.refusal(method, path, body, signal);
  const load = (field: string) => refusal('PUT', '/snapshot/load', { mem_backend: memoryBackend({ [field]: true }) });
  const create = (type: string) =>
    refusal('PUT', '/snapshot/create', { snapshot_type: type, snapshot_path: '', mem_file_path: '' });
  const unknownField = /unknown field/;
  const unknownVariant = /unknown variant/;
  const unknownPath = /Invalid request method and\/or path/;
  const differs = (nonsense: string, real: string, unknown: RegExp): boolean =>
    unknown.test(nonsense) && !unknown.test(real);
  return {
    sharedMemory: differs(await load('forkd_probe'), await load('shared'), unknownField),
    vmstateOnly: differs(await create('ForkdProbe'), await create('VmstateOnly'), unknownVariant),
    writeProtect: differs(await refusal('PUT', '/forkd/probe', {}), await refusal('PUT', '/uffd/wp', {}), unknownPath),
  };
}

/** The body of `PUT /snapshot/load` as this version understands it. Throws `unsupported`, naming what it does not. */
export function loadBody(load: SnapshotLoad, features: Features): object {
  const { memory, networkOverrides, vsockOverride } = load;
  const refuse = (what: string, since: string): never => {
    throw new EngineError('unsupported', `Firecracker ${features.version} cannot load a snapshot with ${what}.`, {
      hint: since,
    });
  };
  if (memory.shared && !features.sharedMemory) refuse('shared memory', 'It takes a build with mem_backend.shared.');
  if (networkOverrides?.length && !features.networkOverrides) refuse('other network devices', 'Version 1.12 can.');
  if (vsockOverride && !features.vsockOverride) refuse('another vsock socket', 'Version 1.16 can.');
  return {
    snapshot_path: load.snapshotPath,
    mem_backend: {
      backend_type: memory.type,
      backend_path: memory.path,
      ...(memory.shared && { shared: true }),
    },
    ...(load.trackDirtyPages && { [features.trackField]: true }),
    resume_vm: load.resume,
    ...(networkOverrides?.length && { network_overrides: networkOverrides }),
    ...(vsockOverride && { vsock_override: vsockOverride }),
  };
}

function memoryBackend(extra: object): object {
  return { backend_type: 'File', backend_path: '', ...extra };
}

function isBefore(version: string, other: string): boolean {
  const numbers = (text: string): number[] => text.split('.').map((part) => Number.parseInt(part, 10) || 0);
  const [a, b] = [numbers(version), numbers(other)];
  const at = [0, 1, 2].find((index) => a[index] !== b[index]);
  return at !== undefined && (a[at] ?? 0) < (b[at] ?? 0);
}
