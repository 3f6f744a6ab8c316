import { existsSync, readFileSync } from 'node:fs';
import type { Check } from '../check.ts';
import type { Facts, KernelProbe } from '../facts.ts';
import { command, fail, ofController, pass, skip, warn, type Finding } from '../row.ts';

const UFFD_SYSCTL = '/proc/sys/vm/unprivileged_userfaultfd';
const LOST = 'live branches are lost; diff and full branches still work';
const UNSERVED =
  'forkd-page-server can serve no VM, and no Firecracker restores from memory that is shared; QEMU is not affected';

/** Kernel features, found by trying: by the running controller's pager, or by a pager that probes and exits. */
export const featureChecks: readonly Check[] = [
  { id: 'uffd_wp', look: uffd },
  { id: 'page_server', look: probed(pageServer) },
  { id: 'memfd_create', look: probed(memfd) },
  { id: 'pagemap_scan', look: probed(pageMap) },
];

async function uffd(facts: Facts): Promise<Finding> {
  const host = await facts.host();
  // Only QEMU's answer is about the kernel. Other engines may lack live branches for other reasons.
  if (host?.engine.name === 'qemu') {
    return ofController(uffdFinding(host.engine.live_unavailable, 'the controller can branch live'));
  }
  return probed(({ live_unavailable }) => uffdFinding(live_unavailable, 'a memfd was write-protected'))(facts);
}

function uffdFinding(reason: string | null, works: string): Finding {
  if (reason === null) return pass(works);
  return lostFinding(reason, LOST, 'the kernel is too old or built without it: live needs Linux 5.19 or newer');
}

/** Judges both ways to serve a page: copying a missing page into a VM, and mapping a page of a memfd. */
function pageServer({ missing_unavailable: missing, sharing_unavailable: sharing }: KernelProbe): Finding {
  if (missing !== null) return lostFinding(missing, UNSERVED, 'the kernel is too old or built without userfaultfd');
  if (sharing === null) return pass('a page was served, and one of a memfd was mapped and write-protected');
  const lost = 'forks of the page server share no memory: each gets a copy of the pages that it reads';
  return lostFinding(sharing, lost, 'Linux 5.19 or newer has what it takes');
}

function lostFinding(reason: string, lost: string, otherwise: string): Finding {
  if (!isDenied(reason)) return warn(reason, `${lost}; ${otherwise}`);
  if (everybodyMay()) return warn(reason, `${lost}; a seccomp profile denies it: allow userfaultfd in the container's`);
  return warn(
    reason,
    `${lost}; give every user the right to userfaultfd, or run the controller as root`,
    command('sysctl', '-w', 'vm.unprivileged_userfaultfd=1'),
  );
}

/** True if the kernel allows userfaultfd to every user. A denial then has another cause. */
function everybodyMay(): boolean {
  return existsSync(UFFD_SYSCTL) && readFileSync(UFFD_SYSCTL, 'latin1').trim() === '1';
}

function memfd({ memfd_unavailable, seal_unavailable }: KernelProbe): Finding {
  const reason = memfd_unavailable ?? seal_unavailable;
  if (reason === null) return pass('a memfd was made, sealed and mapped');
  return fail(
    reason,
    'layers live in sealed memfds, so no sandbox can be run; allow memfd_create in the seccomp profile of the container, or use a newer kernel',
  );
}

function pageMap({ pagemap_scan_unavailable: scan, page_list_unavailable: list }: KernelProbe): Finding {
  if (scan === null) return pass('PAGEMAP_SCAN listed the written pages');
  if (list !== null) {
    return fail(list, 'no branch can be taken, since the written pages cannot be listed; forks of templates work');
  }
  return warn(
    `PAGEMAP_SCAN: ${scan}`,
    'the page map is read in its place: everything works, and branches of large guests take longer; Linux 6.7 or newer has it',
  );
}

function probed(judge: (probe: KernelProbe) => Finding): (facts: Facts) => Promise<Finding> {
  return async (facts) => {
    const kernel = await facts.kernel();
    if (kernel.probe !== undefined) return judge(kernel.probe);
    return skip(kernel.reason, 'the pager tries this, and has to be built for it', kernel.fix);
  };
}

/** Matches EPERM and EACCES in the notation of Rust. */
function isDenied(reason: string): boolean {
  return /\(os error (1|13)\)/.test(reason);
}
