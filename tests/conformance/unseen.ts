import type { Caller } from './caller.ts';

/** Replies that need a host or a guest that is broken in some way, whatever the route, and who provokes them. */
const OF_ALL_ROUTES = new Map([
  [500, 'a fault of forkd, of its VMM or of the host: tests/fault and packages/controller/test/http.test.ts'],
  [502, 'a guest or a registry that does not answer: tests/e2e/memory-limit.test.ts and packages/images/test'],
  [503, 'a pager or a controller that is ending: tests/fault/kills.test.ts'],
  [507, 'a full disk: tests/fault/disk-full.test.ts'],
]);

/** Replies of that kind that this suite can provoke: branches up to the limit, and a port without a service. */
const SEEN_ALL_THE_SAME = ['503 branchSandbox', '502 connectPort'];

const FILES = 'it is answered on the unix socket only, and this suite has none: tests/e2e/firecracker-files.test.ts';

const OF_ONE_ROUTE = new Map<string, string>([
  ['200 shutdown', 'it is answered on the unix socket only, and this suite has none: tests/e2e/snapshots.test.ts'],
  ...['200 exportSnapshot', '404 exportSnapshot', '409 exportSnapshot'].map((name) => [name, FILES] as const),
  ...['201 importSnapshot', '404 importSnapshot', '409 importSnapshot'].map((name) => [name, FILES] as const),
  ['207 createSandboxes', 'some children of one request start and others do not, on a host that fails in between'],
  ['409 resumeSandbox', 'it has to come in the instant in which a branch of a paused sandbox stops it'],
  ['504 createSnapshot', 'a guest that is emulated has a minute to boot, whatever is asked for'],
]);

/** Replies that this suite asks for in a guest with a network device only. */
const OF_NETWORKS = ['200 setNetwork', '200 connectPort'];

export function reasonNotToSee(operation: string, status: number, caller: Caller): string | undefined {
  const name = `${status} ${operation}`;
  return (
    reasonOfTarget(name, caller) ??
    OF_ONE_ROUTE.get(name) ??
    (SEEN_ALL_THE_SAME.includes(name) ? undefined : OF_ALL_ROUTES.get(status))
  );
}

/** The reason why this engine or its guests cannot provoke a reply. */
function reasonOfTarget(name: string, { unable, target }: Caller): string | undefined {
  if (name === '202 branchSandbox') return unable.get('live');
  if (name === '200 measureFloor') return unable.get('floor');
  if (OF_NETWORKS.includes(name)) return unable.get('network');
  if (name === '200 eval' || name === '504 eval') return target.withheld?.python;
  return undefined;
}
