/** The bodies of Firecracker's API, in its own spelling: only the fields that are used. */

export interface BootSource {
  kernel_image_path: string;
  initrd_path?: string;
  boot_args?: string;
}

export interface Drive {
  drive_id: string;
  path_on_host: string;
  is_root_device: boolean;
  is_read_only?: boolean;
  cache_type?: 'Unsafe' | 'Writeback';
  io_engine?: 'Sync' | 'Async';
}

export interface MachineConfig {
  vcpu_count: number;
  mem_size_mib: number;
  smt?: boolean;
  track_dirty_pages?: boolean;
}

export interface NetworkInterface {
  iface_id: string;
  host_dev_name: string;
  guest_mac?: string;
}

export interface VsockDevice {
  /** Context id of the guest, at least 3. */
  guest_cid: number;
  /** Relative to the directory that the process was started in. */
  uds_path: string;
}

export interface SnapshotCreate {
  /** `VmstateOnly`, an extension, writes no memory. */
  snapshot_type: 'Full' | 'Diff' | 'VmstateOnly';
  snapshot_path: string;
  mem_file_path?: string;
}

/** How a snapshot is loaded, whichever version does it. */
export interface SnapshotLoad {
  snapshotPath: string;
  /** A memory file, or the socket of a page server. */
  memory: { type: 'File' | 'Uffd'; path: string; /** An extension. */ shared?: boolean };
  /** Keeps count of what is written, for a later `Diff`. */
  trackDirtyPages: boolean;
  resume: boolean;
  networkOverrides?: readonly { iface_id: string; host_dev_name: string }[];
  vsockOverride?: { uds_path: string };
}

export interface Instance {
  id: string;
  state: 'Not started' | 'Running' | 'Paused';
  vmm_version: string;
}
