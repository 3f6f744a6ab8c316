import type { Isolation } from '../types.ts';
import { USER_BASE } from './jailer.ts';
import type { Trial } from './probe.ts';

/** Lists the measures that confine a Firecracker here. */
export function isolationOf({ jailer, unjailed, filtered }: Trial): Isolation[] {
  const jailed = (id: string, meaning: string): Isolation => {
    const ok = jailer !== null;
    return { id, ok, detail: ok ? meaning : unjailed };
  };
  return [
    {
      id: 'seccomp',
      ok: filtered === true,
      detail:
        filtered === true
          ? 'Firecracker lets each of its threads make only the calls that it needs.'
          : `Firecracker does not filter its system calls: ${filtered}.`,
    },
    jailed('jailer', `Each VMM is started by ${jailer?.path}.`),
    jailed('own_user', `Each VMM is a user of its own. They are numbered from ${USER_BASE} on.`),
    jailed('mount_namespace', 'A VMM sees the files that it was given, and no others.'),
    jailed('no_capabilities', 'A VMM has no capability.'),
    {
      id: 'network_namespace',
      ok: false,
      detail: 'A VMM is in the network of the host, where its filter of calls lets it make unix sockets only.',
    },
    {
      id: 'pid_namespace',
      ok: false,
      detail: 'A VMM in a process namespace of its own would not be our child, and how it ended could not be told.',
    },
  ];
}
