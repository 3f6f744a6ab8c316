import { accessSync, constants } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { cachedKernel, type CachedKernel } from '../cached-kernel.ts';
import type { Facts } from '../facts.ts';
import { runProgram } from '../programs.ts';
import { aptInstall, fail, pass, skip, warn, type Finding } from '../row.ts';

/** A guest under KVM prints its first line well within this time, one that is emulated on a busy host within that. */
const TIMEOUT_MS = { kvm: 4_000, tcg: 60_000 } as const;
const SLOWER = 'guests are emulated: everything works, more slowly; a host whose KVM can run a stock kernel is faster';

/** What guests run on: the running controller's verdict, that of an earlier trial, or that of one made here. */
export async function acceleratorFinding(facts: Facts): Promise<Finding> {
  const host = await facts.host();
  if (host !== undefined) return verdict(host.engine.accelerator, host.engine.reason);
  const { file: qemu, version } = await facts.qemu();
  if (qemu === undefined || version === undefined) return skip('there is no QEMU to try');
  const noKvm = await whyNoKvm(facts, qemu, version);
  if (noKvm === undefined) return verdict('kvm', 'it ran a guest');
  // Emulation runs a kernel wherever it runs the firmware, which comes with QEMU.
  if (await runs(facts, qemu, firmware, 'tcg')) return verdict('tcg', `it ran a guest, and ${noKvm}`);
  return fail(
    `${qemu} runs no guest: ${noKvm}, and emulation does not start its firmware either`,
    'no sandbox can be run; QEMU and its firmware have to be installed anew',
    aptInstall(['--reinstall', 'qemu-system-x86', 'seabios']),
  );
}

function verdict(accelerator: string, reason: string): Finding {
  const detail = `${accelerator}: ${reason}`;
  return accelerator === 'kvm' ? pass(detail) : warn(detail, SLOWER);
}

/** `undefined` where KVM runs a guest. What the controller has tried is not tried again until the host is booted again. */
async function whyNoKvm(facts: Facts, qemu: string, version: string): Promise<string | undefined> {
  if (!mayOpenKvm()) return '/dev/kvm cannot be opened';
  if (!(await hasFlags())) return 'the processor offers no virtualization';
  const cacheDir = path.join(await facts.dataDir(), 'cache');
  const remembered = await earlierTrial(cacheDir, version);
  if (remembered === 'yes') return undefined;
  if (remembered === 'no') return 'KVM ran no kernel when the controller tried';
  const kernel = await cachedKernel(cacheDir);
  // Half a KVM, as some nested ones are, runs firmware and no kernel: a kernel is the better trial once there is one.
  const guest = kernel === undefined ? firmware : linux(kernel);
  if (await runs(facts, qemu, guest, 'kvm')) return undefined;
  return `KVM does not run ${kernel === undefined ? 'the firmware' : 'a kernel'}`;
}

async function hasFlags(): Promise<boolean> {
  return /^flags\s*:.*\b(vmx|svm)\b/m.test(await readFile('/proc/cpuinfo', 'utf8'));
}

function mayOpenKvm(): boolean {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** What the controller has noted of its own trial, since this boot of the host. */
async function earlierTrial(cacheDir: string, version: string): Promise<string | undefined> {
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  return readFile(path.join(cacheDir, `kvm-${version}-${boot}`), 'utf8').catch(() => undefined);
}

/** What runs in a guest, and what it prints first. */
type Guest = { args: readonly string[]; signOfLife: string };

/** SeaBIOS prints to QEMU's debug port. */
const firmware: Guest = {
  args: ['-M', 'pc', '-chardev', 'stdio,id=log', '-device', 'isa-debugcon,iobase=0x402,chardev=log'],
  signOfLife: 'SeaBIOS (version',
};

function linux({ vmlinuz, initramfs }: CachedKernel): Guest {
  const machine = ['-M', 'microvm,acpi=on,rtc=on', '-cpu', 'host', '-serial', 'stdio'];
  const kernel = ['-kernel', vmlinuz, '-initrd', initramfs, '-append', 'console=ttyS0 panic=-1'];
  return { args: [...machine, ...kernel], signOfLife: 'Linux version' };
}

async function runs(facts: Facts, qemu: string, guest: Guest, accelerator: 'kvm' | 'tcg'): Promise<boolean> {
  const { args, signOfLife: until } = guest;
  const common = ['-m', '256', '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'];
  const options = { env: facts.env, signal: facts.signal, timeoutMs: TIMEOUT_MS[accelerator], until };
  return (await runProgram(qemu, ['-accel', accelerator, ...common, ...args], options)).stdout.includes(until);
}
