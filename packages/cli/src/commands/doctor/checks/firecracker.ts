import type { Check } from '../check.ts';
import type { Facts, FirecrackerProbe } from '../facts.ts';
import { pass, skip, warn, type Finding } from '../row.ts';

const RELEASES = 'https://github.com/firecracker-microvm/firecracker/releases';
const UNUSED = 'QEMU runs the sandboxes unless a controller is started with --engine firecracker';
const NO_LIVE = 'live branches of its VMs are lost; diff and full branches work, and QEMU branches live';
const NOT_THERE = 'there is no Firecracker to ask';

/** Checks of Firecracker, the optional engine. A missing one is no fault; an installed one is tried. */
export const firecrackerChecks: readonly Check[] = [
  { id: 'firecracker', look: program },
  { id: 'firecracker_live', look: asked(live) },
  { id: 'jailer', look: asked(jailer) },
];

async function program(facts: Facts): Promise<Finding> {
  const firecracker = await facts.firecracker();
  if (firecracker === undefined) {
    return skip('firecracker is not on the PATH', `${UNUSED}; to have it, put the programs of ${RELEASES} there`);
  }
  const { file, probe, reason } = firecracker;
  if (probe !== undefined) return pass(`Firecracker ${probe.version}, ${file}`);
  return warn(
    `${file} cannot be used: ${reason}`,
    `no controller can be started with --engine firecracker, and QEMU is not affected; newer ones are at ${RELEASES}`,
  );
}

function live({ shared_memory, vmstate_only, write_protect, live: tried }: FirecrackerProbe): Finding {
  const extensions = [
    ['mem_backend.shared', shared_memory],
    ['VmstateOnly', vmstate_only],
    ['PUT /uffd/wp', write_protect],
  ] as const;
  const missing = extensions.filter(([, has]) => !has).map(([name]) => name);
  if (missing.length > 0) {
    return warn(`it has no ${missing.join(', ')}`, `${NO_LIVE}; a build of Firecracker that has them is needed`);
  }
  if (tried !== true) return warn(tried, NO_LIVE);
  return pass(`it has ${extensions.map(([name]) => name).join(', ')}`);
}

function jailer({ jailer: found }: FirecrackerProbe): Finding {
  if (found === null || found.ok) return pass(found?.detail ?? 'it is used');
  return warn(
    found.detail,
    `a guest that takes over its Firecracker has the user and the files of the controller; the jailer is in ${RELEASES}, and is used by a controller that is root`,
  );
}

function asked(judge: (probe: FirecrackerProbe) => Finding): (facts: Facts) => Promise<Finding> {
  return async (facts) => {
    const firecracker = await facts.firecracker();
    if (firecracker === undefined) return skip(NOT_THERE);
    return firecracker.probe === undefined ? skip(firecracker.reason) : judge(firecracker.probe);
  };
}
