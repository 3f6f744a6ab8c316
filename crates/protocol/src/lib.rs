//! The messages between `forkd-controller`, `forkd-pager`, `forkd-disk` and the shim inside the VMM.
//!
//! The controller's socket carries one JSON object per line. A [`Request`] has an `id`. The pager answers it with any
//! number of [`Reply::Event`] and then exactly one [`Reply::Ok`] or [`Reply::Err`] with the same id. Requests of one
//! connection run concurrently. The TypeScript twin of every type is generated into `packages/engine/src/pager/wire.ts`
//! when this crate's tests run, and is checked in. The messages of `forkd-net` are in [`net`], and their twins in
//! `packages/engine/src/net/wire.ts`.

mod branch;
pub mod disk;
mod fault;
mod layers;
pub mod net;
mod pages;
pub mod plan;
pub mod refresh;
mod shim;
pub mod window;

pub use branch::{Audit, Branch, BranchDisk, BranchDone, BranchEvent, BranchMode, BranchStats, WindowKind};
pub use fault::{Fault, FaultCode};
pub use layers::{Blob, HeldLayer, ImportMemory, LayerMemory, LayerRef};
pub use pages::{PageInventory, PageStats, ServePages, ServedSandbox};
pub use refresh::{Refresh, RefreshOp};
pub use shim::{GuestRegion, ShimHello, ShimWants};

use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Bytes in a page of guest memory. Layers, extents and counts of pages are in this unit everywhere.
pub const PAGE_SIZE: u64 = 4096;

/// Raised by one whenever a message changes its meaning; both ends refuse another number.
pub const PROTOCOL_VERSION: u32 = 9;

/// The longest line that either end accepts, in bytes.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// One line from the controller.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Request {
    #[ts(type = "number")]
    pub id: u64,
    #[serde(flatten)]
    pub op: Op,
}

/// What the controller can ask for.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "op", rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum Op {
    /// Who is there. Answers [`Answer::Hello`].
    Hello,
    /// Announces a VM before its VMM starts: loads the layers of its stack (verified by digest) and keeps them ready for
    /// the shim that will call in under this name. Announcing a VM that already called in (after a restart of the
    /// pager) adopts it.
    Announce(Announce),
    /// Connects to the VM's monitor and guest channel, once it runs. From then on `agent_socket` accepts a client.
    /// Afterwards it stands still if it is `paused`, else it runs: a pager that has ended may have left it stopped.
    Open { sandbox: String, paused: bool },
    /// Announces a VMM that will wait for its VM, before it starts. It belongs to this connection, and ends with it.
    Prepare(Prepare),
    /// Waits until a prepared VMM listens, and connects to it.
    AwaitIdle { vmm: String },
    /// Has a VMM that waits load memory and device state before anybody asks for the VM. It can then only be woken for a VM
    /// of the same. `Unsupported` unless its shim loads device states. A VMM that could not load ends.
    LoadAhead(LoadAhead),
    /// Gives a VMM that waits a VM: memory, device state and name. Answers when the VM runs; it is open then. A VMM that
    /// could not be woken ends.
    Wake(Wake),
    /// Forgets a VM and releases all that was held for it. The VMM itself is not touched, unless it waits: then it ends.
    Release { sandbox: String },
    /// Takes a snapshot of a running VM. Sends [`BranchEvent`]s, then answers [`Answer::Branch`].
    Branch(Branch),
    /// Gives up the branch that request `request` of the same connection started. The source runs on.
    Cancel {
        #[ts(type = "number")]
        request: u64,
    },
    /// Stops a VM until it is resumed: a branch of it leaves it stopped. `Busy` while a branch of it is under way.
    Pause { sandbox: String },
    /// Lets a VM go on that was paused.
    Resume { sandbox: String },
    /// Stop, save the device state, run, and nothing else: the floor under every pause. Answers [`Answer::Floor`].
    Floor { sandbox: String },
    /// Takes a live branch of a VM that nobody needs, with the pause conducted inside its VMM, and keeps nothing of it. Answers
    /// [`Answer::Done`] if memory was captured byte for byte and the device state is what the monitor saves in the same pause.
    ///
    /// With `vmm`, a VMM that waits, this VMM loads the branch. Then it must have the same memory and the same device state, and
    /// run.
    ProveWindow { sandbox: String, vmm: Option<String> },
    /// How much of a VM's memory is its own and how much it shares. Answers [`Answer::Memory`].
    Memory { sandbox: String },
    /// Reads the layers of a stack that are only on disk, because it will soon be mapped. They stay in RAM as far as the limit
    /// of unmapped layers allows.
    Load {
        #[ts(type = "number")]
        mem_bytes: u64,
        stack: Vec<LayerRef>,
    },
    /// Writes what a stack holds as one layer that needs no other. Answers [`Answer::Layer`].
    Flatten {
        #[ts(type = "number")]
        mem_bytes: u64,
        stack: Vec<LayerRef>,
    },
    /// Writes what a stack holds to a new file as large as guest memory, each page at its own place.
    ExportMemory {
        #[ts(type = "number")]
        mem_bytes: u64,
        stack: Vec<LayerRef>,
        path: String,
    },
    /// Makes a durable layer of a memory file. Answers [`Answer::Imported`].
    ImportMemory(ImportMemory),
    /// Copies a file into the store. Answers [`Answer::Layer`], durable.
    ImportFile { path: String },
    /// Fills a memory file with the stack of an announced VM, for a VMM that maps it shared: from then on it is that VM's
    /// memory. Answers [`Answer::Lent`]. The file is there until the VM is opened or released, or this connection ends.
    LendMemory { sandbox: String },
    /// Has a Firecracker that has loaded its VM hand over the VM's memory, for live branches, before the VM runs: some builds
    /// can do so only then. Answers [`Answer::Taken`].
    TakeMemory { sandbox: String },
    /// Changes the memory of a VM that has loaded a memory file, privately, and does not run yet.
    RefreshMapped(RefreshMapped),
    /// Listens for the VMM of a VM that is about to be restored, and serves its memory page by page until it has all of it.
    /// `Unsupported` where the host gives out no userfaultfd. A VM that is released before it has all of it is ended.
    ServePages(ServePages),
    /// What is served page by page. Answers [`Answer::Pages`].
    Pages,
    /// All that the pager holds. Answers [`Answer::Inventory`].
    Inventory,
    /// Forgets a layer. VMs that map it keep it.
    DropLayer { layer: LayerRef },
    /// Lets these layers go from RAM as soon as nobody maps them: they will not be needed soon. Their names stay valid.
    LetGo { layers: Vec<LayerRef> },
    /// Sets how much RAM layers may take that nobody maps, those left out that are not on disk yet. Without a number it is what
    /// the pager makes of the host's memory.
    LimitLayers {
        #[ts(type = "number | null")]
        unmapped_bytes: Option<u64>,
    },
    /// How much memory layers take. Answers [`Answer::LayerMemory`].
    LayerMemory,
    /// Ends the pager. VMs run on.
    Shutdown,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Announce {
    /// The VM's name, which the shim gives when it calls.
    pub sandbox: String,
    /// Guest RAM in bytes, a multiple of [`PAGE_SIZE`].
    #[ts(type = "number")]
    pub mem_bytes: u64,
    /// Bottom layer first. Empty for a cold boot: memory is zeros.
    pub stack: Vec<LayerRef>,
    /// QEMU's machine protocol socket that is the pager's alone; Firecracker's API.
    pub monitor_socket: String,
    /// QEMU's end of the guest channel; the socket of Firecracker's vsock device.
    pub chardev_socket: String,
    /// Where the pager listens for the client of the guest channel. Under Firecracker the client names the guest's port
    /// there first, as it would at the device's own socket.
    pub agent_socket: String,
    /// Which VMM it is. Left out: QEMU.
    #[serde(default)]
    #[ts(as = "Option<VmmKind>", optional)]
    pub vmm: VmmKind,
    /// Which process may call under this name. A name alone is no proof: any VMM could give another's.
    pub caller: Caller,
    /// The changes of its memory before it runs. Left out: none.
    #[serde(default)]
    #[ts(as = "Option<Vec<Refresh>>", optional)]
    pub refresh: Vec<Refresh>,
}

/// What runs a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum VmmKind {
    #[default]
    Qemu,
    /// One that can map memory shared, save its device state alone and hand over a userfaultfd.
    Firecracker,
}

/// How the pager tells a VMM from another that pretends to be it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum Caller {
    /// A VMM that is about to be started, and will show this. The first process that does is the VMM from then on.
    Key(String),
    /// A VMM that runs.
    Pid(i32),
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Prepare {
    /// The VMM's name, which its shim gives when it calls.
    pub vmm: String,
    /// Guest RAM in bytes, a multiple of [`PAGE_SIZE`].
    #[ts(type = "number")]
    pub mem_bytes: u64,
    /// QEMU's machine protocol socket that is the pager's alone.
    pub monitor_socket: String,
    /// QEMU's end of the guest channel.
    pub chardev_socket: String,
    /// Where the pager listens for the client of the guest channel. The socket is moved with the directory of the VMM when that
    /// is given a VM.
    pub agent_socket: String,
    /// What its shim will show.
    pub key: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct LoadAhead {
    pub vmm: String,
    /// Bottom layer first.
    pub stack: Vec<LayerRef>,
    /// The changes of the VM's memory when it is woken. Left out: none.
    #[serde(default)]
    #[ts(as = "Option<Vec<Refresh>>", optional)]
    pub refresh: Vec<Refresh>,
    /// The file that holds the device state.
    pub device_state: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Wake {
    pub vmm: String,
    /// The VM that it becomes. The sockets are where they will be found after a restart of the pager.
    pub announce: Announce,
    /// The file that holds the device state.
    pub device_state: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct RefreshMapped {
    /// The VMM.
    pub pid: i32,
    /// Guest RAM in bytes, which is also the file's size.
    #[ts(type = "number")]
    pub mem_bytes: u64,
    /// The memory file.
    pub path: String,
    pub refresh: Vec<Refresh>,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct MemoryUse {
    /// Pages that the VM has written, swapped out or not: its own.
    #[ts(type = "number")]
    pub private_bytes: u64,
    /// Pages of the layers that the VM has mapped in.
    #[ts(type = "number")]
    pub shared_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct HeldSandbox {
    pub sandbox: String,
    /// Whether the shim of its VMM has called in.
    pub attached: bool,
    pub pid: Option<i32>,
    pub branching: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum Answer {
    Hello {
        protocol: u32,
        version: String,
        pid: u32,
        /// Why `live` cannot work on this host, when it cannot.
        live_unavailable: Option<String>,
        /// The processor's time stamp counter, in kHz, measured at start.
        #[ts(type = "number")]
        tsc_khz: u64,
    },
    Done,
    Branch(BranchDone),
    Floor {
        #[ts(type = "number")]
        pause_us: u64,
        #[ts(type = "number")]
        device_state_us: u64,
    },
    Memory(MemoryUse),
    Layer(Blob),
    Lent {
        /// What the VMM can open for reading and writing.
        path: String,
    },
    Taken {
        /// Whether the pager has it until the VM ends. Otherwise it asks again at each branch.
        kept: bool,
    },
    Imported {
        /// All layers by digest, bottom first. One that holds no page is left out.
        stack: Vec<Blob>,
        /// Pages that the new layer holds: unlike those below.
        #[ts(type = "number")]
        captured_pages: u64,
    },
    Pages(PageInventory),
    LayerMemory(LayerMemory),
    Inventory {
        layers: Vec<HeldLayer>,
        sandboxes: Vec<HeldSandbox>,
    },
}

/// One line to the controller.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum Reply {
    Event {
        #[ts(type = "number")]
        id: u64,
        event: BranchEvent,
    },
    Ok {
        #[ts(type = "number")]
        id: u64,
        result: Answer,
    },
    Err {
        #[ts(type = "number")]
        id: u64,
        error: Fault,
    },
}
