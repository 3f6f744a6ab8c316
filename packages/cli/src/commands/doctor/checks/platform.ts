import { accessSync, closeSync, constants, existsSync, openSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import { messageOf } from '@forkd/api/constants';
import type { Check } from '../check.ts';
import { command, fail, pass, warn, type Finding } from '../row.ts';

const NODE_OLDEST = '20.19.0';
/** The first kernel that can write-protect shmem mappings, such as those of layers. */
const LIVE_KERNEL = '5.19';
const KVM = '/dev/kvm';
const SLOWER = 'guests are emulated (TCG): everything works, more slowly';

export const platformChecks: readonly Check[] = [
  { id: 'platform', look: platform },
  { id: 'kernel_version', look: kernelVersion },
  { id: 'hw_virt', look: hardwareVirtualization },
  { id: 'kvm', look: kvm },
];

function platform(): Finding {
  const detail = `${os.type()} on ${os.machine()}, Node ${process.versions.node}, user id ${process.geteuid?.()}`;
  if (os.platform() !== 'linux' || os.machine() !== 'x86_64') {
    return fail(detail, 'forkd runs on Linux on x86-64 only: choose such a host');
  }
  if (isOlder(process.versions.node, NODE_OLDEST)) {
    return fail(detail, `Node ${NODE_OLDEST} or newer is needed: install a current release`);
  }
  if (process.geteuid?.() !== 0) {
    return warn(
      detail,
      'root images cannot be built and /dev/kvm may be closed to this user: run the controller as root',
    );
  }
  return pass(detail);
}

function kernelVersion(): Finding {
  const detail = `Linux ${os.release()}`;
  if (!isOlder(os.release(), LIVE_KERNEL)) return pass(detail);
  return warn(
    detail,
    `live branches need Linux ${LIVE_KERNEL} or newer: install a newer kernel; diff and full branches work on this one`,
  );
}

async function hardwareVirtualization(): Promise<Finding> {
  const flag = await processorFlag();
  if (flag !== undefined) return pass(`the processor has ${flag}`);
  return warn(
    'the processor offers neither vmx nor svm',
    `KVM cannot run guests, so ${SLOWER}; enable virtualization in the firmware, or nested virtualization of this VM`,
  );
}

async function processorFlag(): Promise<string | undefined> {
  return /^flags\s*:.*\b(vmx|svm)\b/m.exec(await readFile('/proc/cpuinfo', 'utf8'))?.[1];
}

async function kvm(): Promise<Finding> {
  if (!existsSync(KVM)) {
    const flag = await processorFlag();
    // Neither KVM module can be loaded if the processor has no virtualization.
    if (flag === undefined) return warn(`${KVM} is not there`, `${SLOWER}; see the row hw_virt`);
    const module = flag === 'vmx' ? 'kvm_intel' : 'kvm_amd';
    return warn(`${KVM} is not there`, `${SLOWER}; its module may not be loaded`, command('modprobe', module));
  }
  if (!statSync(KVM).isCharacterDevice()) {
    return warn(`${KVM} is no device`, `${SLOWER}; remove what is there and load the module of the processor`);
  }
  try {
    accessSync(KVM, constants.R_OK | constants.W_OK);
    closeSync(openSync(KVM, constants.O_RDWR));
  } catch (error) {
    const reason = messageOf(error);
    return warn(
      `${KVM} cannot be opened: ${reason}`,
      `${SLOWER}; run the controller as root or as a member of the group kvm`,
    );
  }
  // The row `accelerator` checks if KVM can run a kernel.
  return pass(`${KVM} can be opened`);
}

function isOlder(found: string, wanted: string): boolean {
  return found.localeCompare(wanted, 'en', { numeric: true }) < 0;
}
