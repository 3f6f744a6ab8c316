import { accessSync, constants, existsSync } from 'node:fs';
import os from 'node:os';
import type { HostInfo } from '@forkd/api';
import { fail, pass, skip, warn, type Row } from './row.ts';

const KVM = '/dev/kvm';

export function checkPlatform(host: HostInfo | undefined): Row[] {
  return [platformRow(), kvmRow(), acceleratorRow(host)];
}

function platformRow(): Row {
  const detail = `${os.type()} ${os.release()} ${os.arch()}, Node ${process.versions.node}`;
  if (os.platform() !== 'linux') return fail('platform', detail, 'forkd runs on Linux only');
  if (os.arch() !== 'x64') return fail('platform', detail, 'forkd runs on x86-64 only, so far');
  return pass('platform', detail);
}

function kvmRow(): Row {
  const hint =
    'guests run under TCG, an emulation: everything works, more slowly. On a cloud host, choose one with nested virtualisation';
  if (!existsSync(KVM)) return warn('kvm', `${KVM} is not there`, hint);
  try {
    accessSync(KVM, constants.R_OK | constants.W_OK);
  } catch {
    return warn(
      'kvm',
      `${KVM} may not be opened by this user`,
      'add the user to the group kvm, or run the controller as root',
    );
  }
  // The file alone says little: whether a guest runs on it is found out by the controller, which tries.
  return pass('kvm', `${KVM} can be opened`);
}

function acceleratorRow(host: HostInfo | undefined): Row {
  if (host === undefined)
    return skip('accelerator', 'the controller, which probes it, does not run', 'any verb that needs one starts it');
  const { accelerator, reason } = host.engine;
  if (accelerator === 'kvm') return pass('accelerator', `kvm: ${reason}`);
  return warn(
    'accelerator',
    `${accelerator}: ${reason}`,
    'guests run more slowly; a host whose KVM can run a stock kernel is faster',
  );
}
