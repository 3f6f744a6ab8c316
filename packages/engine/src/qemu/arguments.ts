import type { KernelFiles, Machine, WindowKind } from '../types.ts';

/**
 * The descriptors under which a VMM finds what the launcher leaves it; twins of the numbers in
 * `crates/vmm-jail/src/inheritance.rs` and, for the memory, of the shim's `PLACEHOLDER_FD`.
 */
const NETWORK_FD = 99;
const MEMORY_FD = 100;
const ROOT_IMAGE_FD = 102;
const CONSOLE_FD = 103;
const MONITOR_FD = 104;
const PAGER_MONITOR_FD = 105;
const CHANNEL_FD = 106;
/** The first of the files that it has a copy of. */
const FILES_FD = 110;

/** The descriptor on which a VMM finds its device state. */
const DEVICE_STATE_FD = 3;

/** The pipe through which the shim gives a VMM that waits its device state; the shim's `INCOMING_FD`. */
const INCOMING_FD = 101;

/** Names of the files in a sandbox's directory, which the VMM has open and cannot see. */
export const FILES = {
  /** The engine's own monitor. */
  monitor: 'monitor.sock',
  /** The pager's monitor. */
  pagerMonitor: 'pager.sock',
  /** QEMU's end of the guest channel. */
  chardev: 'channel.sock',
  /** The pager's end of it, where the agent's client connects. */
  agent: 'agent.sock',
  console: 'console.log',
  log: 'vmm.log',
} as const;

/** The file with the guest's console output, in the directory of its VM. */
export const consoleFile = FILES.console;

/**
 * The machine: `acpi=on` lets the guest find its devices, `suppress-vmdesc` keeps the device state free of a description
 * that a restore would not expect, `mem-merge=off` keeps the host from merging pages behind our back.
 */
export const MACHINE = 'microvm,acpi=on,rtc=on,pit=off,suppress-vmdesc=on,mem-merge=off,dump-guest-core=off';

/** The processor under emulation: x86-64-v2, so that common images run. */
export const EMULATED_MODEL = 'Nehalem-v1,+rdrand,+arat';

/** The same level under KVM, the same on every host: QEMU starts no VM where the host lacks any of it. */
export const BASELINE_MODEL = `${EMULATED_MODEL},enforce`;

/** The address of the network device, the same in every VM: each has a wire of its own. A twin is in `crates/net`. */
const GUEST_MAC = '02:fc:00:00:00:02';

/** The files and sockets of the host that a VMM uses, as its command line names them. */
export interface Host {
  /** Path of the guest memory. */
  memoryPath: string;
  rootImagePath: string;
  consolePath: string;
  /** Where it listens: `fd=…` or `path=…`. */
  monitor: string;
  pagerMonitor: string;
  channel: string;
  /** Descriptors that are named by the paths. */
  descriptors: readonly number[];
}

/** A VMM that the jail has started: it has descriptors instead of files. */
const CONFINED: Host = {
  memoryPath: `/proc/self/fd/${MEMORY_FD}`,
  rootImagePath: `/dev/fdset/${ROOT_IMAGE_FD}`,
  consolePath: `/dev/fdset/${CONSOLE_FD}`,
  monitor: `fd=${MONITOR_FD}`,
  pagerMonitor: `fd=${PAGER_MONITOR_FD}`,
  channel: `fd=${CHANNEL_FD}`,
  descriptors: [ROOT_IMAGE_FD, CONSOLE_FD],
};

/** Arguments of both boot and restore. The devices and their order are part of a snapshot, so change neither lightly. */
function commonArguments(machine: Machine, host: Host = CONFINED): string[] {
  const memory = `memory-backend-file,id=ram,size=${machine.mem_mib}M,mem-path=${host.memoryPath},share=off`;
  const root = {
    driver: 'raw',
    'node-name': 'root',
    'read-only': true,
    file: { driver: 'file', filename: host.rootImagePath, 'read-only': true },
  };
  return [
    ['-M', `${machine.machine},memory-backend=ram`],
    ['-accel', acceleration(machine)],
    ['-cpu', machine.cpu_model],
    ['-m', String(machine.mem_mib)],
    ['-smp', String(machine.vcpus)],
    ['-nodefaults'],
    ['-no-user-config'],
    ['-no-reboot'],
    ['-display', 'none'],
    ['-object', memory],
    ['-global', 'migration.send-configuration=off'],
    host.descriptors.flatMap((fd) => ['-add-fd', `fd=${fd},set=${fd}`]),
    ['-chardev', `socket,id=monitor,${host.monitor},server=on,wait=off`],
    ['-mon', 'chardev=monitor,mode=control'],
    ['-chardev', `socket,id=pager,${host.pagerMonitor},server=on,wait=off`],
    ['-mon', 'chardev=pager,mode=control'],
    ['-chardev', `file,id=console,path=${host.consolePath},append=on`],
    ['-serial', 'chardev:console'],
    ['-blockdev', JSON.stringify(root)],
    ['-device', 'virtio-blk-device,drive=root'],
    ['-object', 'rng-random,id=rng,filename=/dev/urandom'],
    ['-device', 'virtio-rng-device,rng=rng'],
    // No guest sees it: microvm has no ACPI table for it. Snapshots have its state, and would not load without it.
    ['-device', 'vmgenid,guid=auto'],
    ['-device', 'virtio-serial-device'],
    ['-chardev', `socket,id=agent,${host.channel},server=on,wait=off`],
    ['-device', 'virtserialport,chardev=agent,name=forkd.agent'],
    machine.network === true ? networkArguments() : [],
  ].flat();
}

/** The network device. Each datagram is an Ethernet frame. `guest_announce` would have a child shout its address, which nobody needs to learn. */
function networkArguments(): string[] {
  return [
    ['-netdev', `dgram,id=net0,local.type=fd,local.str=${NETWORK_FD}`],
    ['-device', `virtio-net-device,netdev=net0,mac=${GUEST_MAC},guest_announce=off`],
  ].flat();
}

/** Uses one translator thread per processor, and a translation buffer that suits a sandbox, instead of QEMU's gigabyte. */
function acceleration(machine: Machine): string {
  if (machine.accelerator === 'kvm') return 'kvm';
  return `tcg,thread=${machine.vcpus > 1 ? 'multi' : 'single'},tb-size=64`;
}

/** The device of a disk that the disk server offers as `key` at its socket in `dir`. It comes last: those before keep their places. */
export function diskArguments(key: string, dir: string): string[] {
  const disk = {
    driver: 'nbd',
    'node-name': 'disk',
    server: { type: 'unix', path: `${dir}/disk.sock` },
    export: key,
    discard: 'unmap',
    'detect-zeroes': 'unmap',
  };
  // A request that fails stops the VM, and is repeated when the VM runs again.
  return ['-blockdev', JSON.stringify(disk), '-device', 'virtio-blk-device,drive=disk,werror=stop,rerror=stop'];
}

/** The files of {@link bootFiles}, as a VMM finds them that the jail has started. */
const CONFINED_FILES: KernelFiles = {
  vmlinuz: `/proc/self/fd/${FILES_FD}`,
  initramfs: `/proc/self/fd/${FILES_FD + 1}`,
};

/** How a VM starts from nothing. */
export function bootArguments(machine: Machine, tscKhz: number, host?: Host, files = CONFINED_FILES): string[] {
  return [
    commonArguments(machine, host),
    ['-kernel', files.vmlinuz],
    ['-initrd', files.initramfs],
    ['-append', kernelCommandLine(machine, tscKhz)],
  ].flat();
}

/** The files that {@link bootArguments} of a VMM in the jail names, in order. */
export function bootFiles({ vmlinuz, initramfs }: KernelFiles): string[] {
  return [vmlinuz, initramfs];
}

/** How a VM starts from a device state, which it reads from {@link DEVICE_STATE_FD}. It needs no kernel. */
export function restoreArguments(machine: Machine, host?: Host): string[] {
  return [...commonArguments(machine, host), '-incoming', `fd:${DEVICE_STATE_FD}`];
}

/** How a VMM starts that waits for its VM. From inside, the shim loads the device state, and runs the VM. */
export function waitArguments(machine: Machine, window: WindowKind): string[] {
  return [...commonArguments(machine), ...(window === 'inside' ? ['-S'] : ['-incoming', `fd:${INCOMING_FD}`])];
}

/**
 * Emulated kernels get two hints. The first is the frequency of the counter: the kernel would measure it with timers that a
 * busy host delivers late, and hang or get it wrong. The second is that the processor has none of the hardware flaws of its
 * model, because mitigations take most of the time of a system call.
 */
function kernelCommandLine({ accelerator, disk_gib: diskGib }: Machine, tscKhz: number): string {
  const clock = [`tsc_early_khz=${tscKhz}`, 'tsc=reliable', 'no_timer_check'];
  const emulated = accelerator === 'tcg' ? [...clock, 'mitigations=off'] : [];
  const disk = diskGib === undefined ? [] : ['forkd.disk=/dev/vdb'];
  return ['console=ttyS0', 'quiet', 'reboot=t', 'panic=-1', ...emulated, 'forkd.root=/dev/vda', ...disk].join(' ');
}
