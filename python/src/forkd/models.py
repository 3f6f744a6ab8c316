"""The requests and replies of the API. Their fields are described in its reference, docs/reference/api.md.

Made by scripts/python-sdk.mjs from docs/reference/openapi.json. Not to be edited.
"""

from typing import Literal, TypeAlias, final

from typing_extensions import NotRequired, TypedDict


@final
class BranchRequest(TypedDict):
    """How to branch a sandbox."""

    tag: NotRequired[str | None]
    """Tag of the new snapshot. Default: a tag made of the sandbox id and the time."""
    mode: NotRequired[Literal["full", "diff", "live"] | None]
    """`live` copies memory while the sandbox runs, with the shortest pause. `diff` copies the changed pages, and `full` copies all pages, while the sandbox is paused. Default: `full`."""
    wait: NotRequired[bool]
    """False: same as `until: "resumed"`. Needs mode `live`. Ignored if `until` is set."""
    until: NotRequired[Literal["resumed", "ready", "durable"] | None]
    """When to reply: `resumed` (the sandbox runs again), `ready` (the branch can be forked) or `durable` (the branch is on disk). Default: `durable`."""
    parent_tag: NotRequired[str | None]
    """Snapshot that the sandbox was forked from; the request fails if it was forked from another. The branch then keeps it: it can be removed only together with the branch, or by force. Needs mode `diff` or `live`."""
    audit: NotRequired[bool]
    """True: copy all guest memory during the pause and compare every page of the branch with it, and every block of the disk with a digest that is taken in the pause. The pause lasts as long as both take. A page or block that differs fails the branch."""
    diff: NotRequired[bool]
    """Older form of `mode: "diff"`."""
    live: NotRequired[bool]
    """Older form of `mode: "live"`."""
    measure_diff: NotRequired[bool]
    """True: a `full` branch that also measures what `diff` would have cost, in `diff_ms`, `diff_physical_bytes` and `diff_logical_bytes`. The pause is longer by `diff_ms`."""
    safety: NotRequired[Literal["standard", "strict"] | None]
    """`strict` freezes the programs of the sandbox during the branch, and each child starts them only after it has its own identity and clock. Default: `standard`, which holds programs up for the pause only."""


@final
class CommandEventStarted(TypedDict):
    type: Literal["started"]
    """The command has started."""
    id: str
    """Id of the command within its sandbox."""
    pid: int
    """Process id in the guest."""


@final
class CommandEventStdout(TypedDict):
    type: Literal["stdout", "stderr"]
    """The stream that the command wrote to."""
    offset: int
    """Offset of the first byte of `data`."""
    data: str
    """The bytes, in base64."""


CommandEventGap = TypedDict("CommandEventGap", {"type": Literal["gap"], "from": int, "to": int})


@final
class CommandEventExit(TypedDict):
    type: Literal["exit"]
    """The command has ended."""
    exit_code: int | None
    """Exit code. 128 plus the number of the signal that ended the command, as shells report it. Null while it runs."""
    signal: str | None
    """Name of the signal that ended the command, without `SIG`. Null if it exited by itself."""
    timed_out: bool
    """True if the command was killed because its time was over."""


@final
class ErrorEvent(TypedDict):
    """The last event of a streamed reply whose request failed after the status line was sent."""

    type: Literal["error"]
    """The request has failed."""
    error: str
    """What went wrong, in one sentence that names the values of the request."""
    code: str
    """Stable error code. Its meaning never changes."""
    hint: NotRequired[str]
    """What to do about the error."""
    request_id: NotRequired[str]
    """Id of the request in the controller's log. The header `x-request-id` carries the same id."""


CommandEvent: TypeAlias = CommandEventStarted | CommandEventStdout | CommandEventGap | CommandEventExit | ErrorEvent
"""One line of the output of a command. The last line is `exit` or `error`. A stream that ends without either was cut off; read on from the next offset."""


@final
class PtySize(TypedDict):
    """The size of a terminal, in characters."""

    cols: int
    """Columns of the terminal."""
    rows: int
    """Rows of the terminal."""


@final
class CommandInfo(TypedDict):
    """A command of a sandbox."""

    id: str
    """Id of the command within its sandbox."""
    pid: int
    """Process id in the guest."""
    args: list[str]
    """The program and its arguments."""
    running: bool
    """True until the command has ended."""
    exit_code: int | None
    """Exit code. 128 plus the number of the signal that ended the command, as shells report it. Null while it runs."""
    signal: str | None
    """Name of the signal that ended the command, without `SIG`. Null if it exited by itself."""
    timed_out: bool
    """True if the command was killed because its time was over."""
    output_start: int
    """Offset of the oldest byte of output that is still kept. Offsets count stdout and stderr together, in the order in which the agent read them."""
    output_end: int
    """Offset after the newest byte of output."""
    started_unix_ms: int
    """Start time, in milliseconds since 1970."""
    pty: NotRequired[PtySize]
    """Size of the terminal of the command. Absent if it has none."""


@final
class CompactSnapshotRequest(TypedDict):
    """How to compact a snapshot."""

    to: str
    """Tag of the new snapshot."""


@final
class ControllerEvent(TypedDict):
    """Something that happened to a sandbox, a snapshot or a workspace."""

    id: str
    """Unique id of the event. The number after the dash grows with each event of one controller process."""
    type: Literal["sandbox.created", "sandbox.updated", "sandbox.paused", "sandbox.resumed", "sandbox.stalled", "sandbox.recovered", "sandbox.ended", "snapshot.writing", "snapshot.ready", "snapshot.durable", "snapshot.failed", "snapshot.removed", "workspace.created", "workspace.suspended", "workspace.resumed", "workspace.stale", "workspace.removed", "events.gap"]
    """What happened. `events.gap` means that earlier events are lost, so the lists have to be read again."""
    time_unix_ms: int
    """Time of the event, in milliseconds since 1970."""
    sandbox: NotRequired[str]
    """Id of the sandbox."""
    snapshot: NotRequired[str]
    """Tag of the snapshot."""
    workspace: NotRequired[str]
    """Name of the workspace."""
    reason: NotRequired[str]
    """Why it happened, in a sentence, if no caller asked for it."""


@final
class CreatePortUrlRequest(TypedDict):
    """A port whose URL is asked for."""

    port: int
    """TCP port in the guest, of a service that speaks HTTP."""
    expires_secs: NotRequired[int]
    """How long the URL is of use without a token, in seconds. Without effect where the controller asks for no token."""


@final
class NetworkPolicy(TypedDict):
    """What a sandbox may reach. Without any field: nothing."""

    access: NotRequired[Literal["none", "all"]]
    """`none`: only what `allow` lists. `all`: also every public address. Default: `none`."""
    allow: NotRequired[list[str]]
    """What may be reached. A rule is a name (`pypi.org`), all names below one (`*.example.com`), an IPv4 address, a range (`10.1.0.0/16`) or the name of a preset, each with an optional port or range of ports (`:443`, `:8000-8010`) and protocol (`/tcp`, `/udp`; a name is for TCP). Private, loopback, link-local and multicast addresses, and those of the host, need a rule that names them, even where a name that is allowed resolves to one."""
    deny: NotRequired[list[str]]
    """What may not be reached, whatever else allows it. Rules as in `allow`."""


Labels: TypeAlias = dict[str, str]
"""Keys and values that a caller attaches to a sandbox to find it by."""


@final
class CreateSandboxesRequest(TypedDict):
    """Sandboxes to start."""

    snapshot_tag: str
    """Snapshot to fork."""
    n: NotRequired[int]
    """Number of sandboxes to start."""
    per_child_netns: NotRequired[bool]
    """Accepted for older clients. Every sandbox that has a network has one of its own."""
    network: NotRequired[NetworkPolicy | None]
    """What the sandboxes may reach, in place of what the snapshot says. Needs a snapshot with a network device."""
    memory_limit_mib: NotRequired[int | None]
    """Memory limit of each sandbox, in MiB. Default: no limit."""
    prewarm: NotRequired[bool]
    """Accepted for older clients. The first branch of a sandbox costs no more than later ones."""
    live_fork: NotRequired[bool]
    """Accepted for older clients. Every sandbox can be branched live."""
    hugepages: NotRequired[bool]
    """Accepted for older clients. Layers are mapped in pages of 4 KiB, and a warning says so."""
    name: NotRequired[str | None]
    """Name of the sandbox, unique among the sandboxes that exist. Only if `n` is 1. Accepted in place of the id everywhere."""
    labels: NotRequired[Labels | None]
    """Labels of each sandbox."""
    ttl_secs: NotRequired[int | None]
    """Time to live in seconds. Default: a sandbox lives until it is ended."""
    on_expire: NotRequired[Literal["kill", "pause"]]
    """What to do when the time to live is over. Default: `kill`."""
    safety: NotRequired[Literal["standard", "strict"] | None]
    """`strict`: the request fails unless the snapshot was taken with `safety: "strict"`. Default: `standard`, which accepts both kinds of snapshot."""
    partial: NotRequired[bool]
    """True: if some of the sandboxes fail to start, keep the others, and reply 207 with one result for each. False: keep all or none."""


CreateSnapshotRequestCopy = TypedDict("CreateSnapshotRequestCopy", {"from": str, "to": str})


@final
class CreateSnapshotRequest(TypedDict):
    """A template to build: boot an image, warm it up, take a snapshot. Exactly one of `source` and `rootfs`."""

    tag: str
    """Tag of the new template."""
    kernel: NotRequired[str | None]
    """Kernel on the controller's host: an x86 bzImage. Default: the kernel of the host's distribution."""
    rootfs: NotRequired[str | None]
    """Root on the controller's host: an EROFS image or a directory. Exclusive with `source`."""
    rw: NotRequired[bool]
    """Accepted for older clients. A guest can always write to its root; each guest has its own overlay."""
    tap: NotRequired[str | None]
    """Accepted for older clients. A guest has no tap device; a warning says so. See `network`."""
    network: NotRequired[NetworkPolicy | None]
    """Gives the guest a network device, and says what its children may reach. It holds for the warm-up too, unless `warm_network` says otherwise. Without either there is no device, for good."""
    warm_network: NotRequired[NetworkPolicy | None]
    """What the guest may reach during its warm-up, in place of `network`. Its children have the device and the rules of `network`, which are none by default. Connections that the warm-up leaves open and `network` does not allow are reset."""
    boot_wait_secs: NotRequired[float]
    """With `rootfs`: how long to wait for the agent of the guest, in seconds."""
    source: NotRequired[str | None]
    """Image to build from: the name of a recipe, an OCI layout, a docker-archive tarball, a registry reference or a directory. Exclusive with `rootfs`."""
    env: NotRequired[dict[str, str] | None]
    """Variables that every command has, above those of the image."""
    copy: NotRequired[list[CreateSnapshotRequestCopy] | None]
    """Files to add to the root, in this order. Of a directory its content is copied. Needs a source that is not an EROFS image."""
    packages: NotRequired[list[str] | None]
    """Packages to add to the root: `pip:NAME` or `pip:NAME==VERSION` of a Python package, which any image with Python takes; `NAME` or `NAME=VERSION` of a Debian package, which the recipes `python` and `debian` take."""
    replace: NotRequired[bool]
    """True: a snapshot that has the tag is replaced once the new one is on disk, and stays if the build fails."""
    warm: NotRequired[str | None]
    """Python code, evaluated before the snapshot in the interpreter that every child inherits."""
    warm_command: NotRequired[list[str] | None]
    """Command that is run to its end before the snapshot."""
    mem_mib: NotRequired[int]
    """Guest memory size in MiB."""
    vcpus: NotRequired[int]
    """Number of processors of the guest."""
    disk_gib: NotRequired[int | None]
    """Size in GiB of a disk for what the guest writes. A branch captures it at the same instant as memory, and it takes as much space on the host as was written. Default: none, and files that the guest writes are kept in its memory."""
    cpu_model: NotRequired[Literal["host", "x86-64-v2"] | None]
    """`host` gives the guest all features of the host's processor; its snapshots restore only on hosts with the same processor. Snapshots of `x86-64-v2` restore on every processor of the same vendor and of at least that level. QEMU only. Default: `host`."""


@final
class CreateWorkspaceRequest(TypedDict):
    """A workspace to create."""

    name: str
    """Name of the new workspace."""
    snapshot_tag: str
    """Snapshot to start the first sandbox from."""
    per_child_netns: NotRequired[bool]
    """Accepted for older clients. Every sandbox that has a network has one of its own."""
    memory_limit_mib: NotRequired[int | None]
    """Memory limit of each of its sandboxes, in MiB. Default: no limit."""
    labels: NotRequired[Labels | None]
    """Labels of each of its sandboxes."""


@final
class DirEntry(TypedDict):
    """An entry of a directory."""

    name: str
    """Name of the entry, without its directory. A name that is not UTF-8 has U+DC00 plus the byte for each byte that is not, as in Python's surrogateescape. In a query such a byte is percent-encoded."""
    type: Literal["file", "dir", "symlink", "other"]
    """Type of the entry. Symbolic links are not followed."""
    size: int
    """Size in bytes."""
    mode: str
    """Permission bits, as four octal digits."""
    mtime_unix: int
    """Time of the last change, in seconds since 1970."""
    uid: NotRequired[int]
    """User id of the owner. Absent if the template was built by an earlier forkd."""
    gid: NotRequired[int]
    """Group id of the owner. Absent if the template was built by an earlier forkd."""
    target: NotRequired[str]
    """Where a symbolic link leads, as the link says it."""


@final
class EngineInfoCapabilities(TypedDict):
    """Something that not every engine can do on every host."""

    id: str
    """Name of the capability, such as `live`, `memory_limit` or `pool`."""
    ok: bool
    """True if the capability is available."""
    why: str | None
    """Why the capability is unavailable, in a sentence. A request that needs it is refused with the same sentence. Null if it is available."""


@final
class EngineInfoIsolation(TypedDict):
    """A measure that confines the process of a VM."""

    id: str
    """Name of the measure, such as `own_user`, `seccomp` or `mount_namespace`."""
    ok: bool
    """True if the measure is in force on this host."""
    detail: str
    """What the measure does, or why it is unavailable on this host."""


@final
class EngineInfo(TypedDict):
    """The engine, which runs the VMs."""

    name: str
    """Name of the engine: `qemu` or `firecracker`."""
    version: str
    """Version of the engine."""
    accelerator: str
    """What runs the guest: `kvm`, or `tcg` for emulation."""
    reason: str
    """Why this accelerator was chosen."""
    live_unavailable: str | None
    """Why live branches are unavailable on this host. Null if they are available."""
    capabilities: list[EngineInfoCapabilities]
    """What the engine can do here. A request for anything else is refused with `unsupported`."""
    window: NotRequired[Literal["inside", "monitor"]]
    """What conducts the pauses of live branches: the VMM itself from `inside`, or the pager over its `monitor`. The capability `window_inside` says why it is the monitor."""
    isolation: list[EngineInfoIsolation]
    """How the processes of VMs are confined."""


@final
class ErrorBody(TypedDict):
    """The body of every error. Some codes add fields of their own, such as `dependents` or `stdout`."""

    error: str
    """What went wrong, in one sentence that names the values of the request."""
    code: str
    """Stable error code. Its meaning never changes."""
    hint: NotRequired[str]
    """What to do about the error."""
    request_id: NotRequired[str]
    """Id of the request in the controller's log. The header `x-request-id` carries the same id."""


@final
class EvalRequest(TypedDict):
    """Python code to evaluate."""

    code: str
    """Python code."""
    timeout_secs: NotRequired[float]
    """Interrupt the code after this many seconds. An evaluation that still waits for an earlier one is given up instead (`busy`)."""


@final
class EvalResponse(TypedDict):
    """The outcome of an evaluation."""

    result: str | None
    """The `repr` of the last expression. Null if there is none."""
    error: str | None
    """Why the evaluation failed, in one line: the exception that the code raised, or what ended the interpreter."""
    traceback: NotRequired[str]
    """The traceback, if the code raised an exception."""
    exit_code: int
    """0 on success, another number if `error` is set."""
    stdout: NotRequired[str]
    """What the code printed to standard output."""
    stderr: NotRequired[str]
    """What the code printed to standard error."""
    truncated: NotRequired[bool]
    """True if the output or the result was longer than a reply can carry, and was cut."""
    stdout_dropped_bytes: NotRequired[int]
    """Number of bytes of standard output that were cut, if known."""
    stderr_dropped_bytes: NotRequired[int]
    """Number of bytes of standard error that were cut, if known."""
    timed_out: NotRequired[bool]
    """True if the code was interrupted because its time was over."""
    state_lost: NotRequired[bool]
    """True if the interpreter ended and lost its state. The next evaluation starts a fresh interpreter."""


@final
class ExecRequest(TypedDict):
    """A command to run to its end."""

    args: list[str]
    """The program and its arguments. No shell is involved."""
    env: NotRequired[dict[str, str] | None]
    """Environment variables, added to the image's own."""
    cwd: NotRequired[str | None]
    """Working directory. Default: the image's working directory."""
    user: NotRequired[str | None]
    """User to run as. Default: the image's user."""
    timeout_secs: NotRequired[float]
    """Kill the command after this many seconds."""
    stdin: NotRequired[str | None]
    """Standard input, in base64. Default: empty."""


@final
class ExecResponse(TypedDict):
    """The outcome of a command."""

    stdout: str
    """Standard output, as text. At most the first 8 MiB."""
    stderr: str
    """Standard error, as text. At most the first 8 MiB."""
    exit_code: int
    """Exit code. 128 plus the number of the signal that ended the command."""
    truncated: NotRequired[bool]
    """True if the output or the result was longer than a reply can carry, and was cut."""
    stdout_dropped_bytes: NotRequired[int]
    """Number of bytes of standard output that were cut, if known."""
    stderr_dropped_bytes: NotRequired[int]
    """Number of bytes of standard error that were cut, if known."""
    lost_bytes: NotRequired[int]
    """Number of bytes of output that the guest had already dropped when they were read."""


@final
class ExportSnapshotRequest(TypedDict):
    """Where to export a snapshot to."""

    format: Literal["firecracker"]
    """File format: that of Firecracker."""
    dir: str
    """Directory to create on the controller's host. It must not exist; its parent directory must exist."""


@final
class ExportSnapshotResponse(TypedDict):
    """An exported snapshot."""

    tag: str
    """Tag of the snapshot."""
    format: Literal["firecracker"]
    """File format: that of Firecracker."""
    dir: str
    """Directory that was created."""
    memory_logical_bytes: int
    """Length of the memory file in bytes: the guest memory size."""
    memory_physical_bytes: int
    """Bytes that the memory file occupies on disk, without its holes. Blocks that it shares with the store are included."""
    vmstate_bytes: int
    """Size of the device state in bytes."""


@final
class FileChangeEvent(TypedDict):
    """Something that happened to a file or a directory."""

    type: Literal["ready", "create", "modify", "remove", "rename", "overflow"]
    """`ready`: the first event; what happens from then on is reported. `create`: something new is at the path, also if it replaced what was there. `modify`: the content, the mode, the owner or the times changed. `remove`: nothing is at the path any more. `rename`: it moved within what is watched. `overflow`: changes came faster than they were read, and some are missing here."""
    path: NotRequired[str]
    """Path of the file or directory. Absent for `ready` and `overflow`. Bytes that are not UTF-8 are as in the name of a directory entry."""
    to: NotRequired[str]
    """For `rename`: the new path."""


@final
class FileStat(TypedDict):
    """What is at a path."""

    type: Literal["file", "dir", "symlink", "other"]
    """Type of the entry. Symbolic links are not followed."""
    size: int
    """Size in bytes."""
    mode: str
    """Permission bits, as four octal digits."""
    mtime_unix: int
    """Time of the last change, in seconds since 1970."""
    uid: int
    """User id of the owner."""
    gid: int
    """Group id of the owner."""
    target: str | None
    """Where a symbolic link leads, as the link says it. Null for everything else."""


FileWatchEvent: TypeAlias = FileChangeEvent | ErrorEvent
"""One event of a watch. If the last is neither `error` nor the `remove` of the watched path, the stream was cut off."""


@final
class FloorInfo(TypedDict):
    """An empty pause: stop, save the device state, run. No live branch can pause for less."""

    pause_us: float
    """Time from stopping the processors until they ran again, in microseconds."""
    device_state_us: float
    """Part of the pause that saved the device state, in microseconds."""


@final
class SandboxInfo(TypedDict):
    """A sandbox: a running or paused VM."""

    id: str
    """Id of the sandbox: `sb-` and ten hexadecimal digits."""
    snapshot_tag: str
    """Snapshot that the sandbox was forked from."""
    netns: str | None
    """Always null, for older clients: a guest needs no network namespace. See `network`."""
    guest_addr: str
    """Address of the agent in the guest: `unix:` and the path of a socket on the host."""
    created_at_unix: int
    """Time of creation, in seconds since 1970."""
    pid: int | None
    """Process id of its VMM on the host."""
    memory_limit_mib: int | None
    """Memory limit in MiB. Null: no limit."""
    has_branched: bool
    """True if the sandbox has been branched at least once."""
    last_branch_memory_path: str | None
    """File with the memory of its last branch, in the store. Null before the first branch."""
    branch_count: int
    """Number of branches that were taken of the sandbox."""
    hostname: NotRequired[str]
    """Host name inside the guest."""
    state: NotRequired[Literal["running", "paused", "ended"]]
    """`paused`: its processors are stopped and its memory is kept. A paused sandbox answers no request to its guest. `ended`: nothing of it is left but this description, which is kept for an hour, of at most 100 sandboxes, also by the next controller."""
    stalled: NotRequired[str]
    """Why it stands still although it is not paused, in a sentence: the host has no space left for its disk, or the disk server has ended. It continues by itself, and has lost nothing. Absent: it runs."""
    ended_at_unix: NotRequired[int]
    """Time of its end, in seconds since 1970. Absent: it has not ended."""
    end_reason: NotRequired[Literal["killed", "expired", "suspended", "guest_stopped", "guest_panicked", "out_of_memory", "crashed", "lost"]]
    """Why it ended. `killed`: a request ended it. `guest_stopped`: its guest shut down. `crashed`: its VMM failed. `lost`: its VMM ended while nobody saw it, such as while no controller ran."""
    end_message: NotRequired[str]
    """The same in a sentence."""
    console_tail: NotRequired[str]
    """The last lines of its console, if it ended by itself. Control characters are escaped."""
    name: NotRequired[str]
    """Name of the sandbox. Accepted in place of the id everywhere."""
    network: NotRequired[NetworkPolicy]
    """What the sandbox may reach. Absent: it has no network device."""
    labels: NotRequired[Labels]
    """Labels of the sandbox."""
    expires_at_unix: NotRequired[int]
    """When its time to live is over, in seconds since 1970. Absent: the sandbox has no time to live."""
    on_expire: NotRequired[Literal["kill", "pause"]]
    """What to do when the time to live is over."""
    workspace: NotRequired[str]
    """Name of the workspace that the sandbox belongs to."""
    warnings: NotRequired[list[str]]
    """What the request asked for and did not get, in sentences."""
    fork_ms: NotRequired[float]
    """Time from the start of the restore until the VM ran, in milliseconds."""
    ready_ms: NotRequired[float]
    """Time from the start of the restore until the guest had its own identity and answered, in milliseconds."""


@final
class ForkResultSandbox(TypedDict):
    index: int
    """Position among the requested sandboxes, from 0."""
    sandbox: SandboxInfo
    """The sandbox that was started."""


@final
class ForkResultError(TypedDict):
    index: int
    """Position among the requested sandboxes, from 0."""
    error: str
    """Why the sandbox did not start, in one sentence."""
    code: str
    """Stable error code."""
    hint: NotRequired[str]
    """What to do about the error."""


ForkResult: TypeAlias = ForkResultSandbox | ForkResultError
"""The outcome of one sandbox of a partial fork: the sandbox, or an error."""


@final
class Health(TypedDict):
    """The controller is up."""

    ok: Literal[True]
    """Always true: a controller that is not up does not answer."""


@final
class HostInfoLayers(TypedDict):
    """The memory of snapshots."""

    budget_bytes: int
    """Memory that unused layers may occupy. Layers beyond the budget are evicted, the least recently used first."""
    mapped_bytes: int
    """Memory of layers in use: mapped by sandboxes, or read by a branch, an export or a page server."""
    unmapped_bytes: int
    """Memory of layers that are on disk and not in use."""
    pending_bytes: int
    """Memory of layers that are not in use and not on disk yet. These layers are never evicted."""
    view_bytes: int
    """Memory of merged views, each of which is mapped in place of many layers. Included in the mapped and unmapped bytes."""
    layers: int
    """Number of layers and merged views in memory."""
    let_go: int
    """Number of layers evicted since the pager started."""
    loaded_again: int
    """Number of times an evicted layer was read from disk again."""
    merged: int
    """Number of merged views that were built in the background."""
    merged_in_forks: int
    """Number of merged views that a fork had to wait for."""
    merged_in_forks_ms: float
    """Total time that forks waited for merged views, in milliseconds."""


@final
class HostInfo(TypedDict):
    """The host, its engine and the controller."""

    hostname: str
    """Name of the host."""
    kernel: str
    """Kernel release of the host."""
    cpus: int
    """Number of processors of the host."""
    mem_bytes: int
    """Memory of the host, in bytes."""
    engine: EngineInfo
    """The engine that runs the VMs."""
    layers: HostInfoLayers
    """The memory of snapshots."""
    data_dir: str
    """Data directory of the controller."""
    pid: int
    """Process id of the controller."""
    version: str
    """Version of the controller."""


@final
class ImportSnapshotRequest(TypedDict):
    """Files to import as a snapshot."""

    format: Literal["firecracker"]
    """File format: that of Firecracker."""
    dir: str
    """Directory on the controller's host with the files `vmstate` and `memory.bin`."""
    rootfs: NotRequired[str | None]
    """Root image. Needed if the directory has none."""
    vcpus: NotRequired[int | None]
    """Number of processors of the VM. Needed if the directory was not written by an export."""


@final
class MemoryInfo(TypedDict):
    """Guest memory of a sandbox that is resident now."""

    private_bytes: int
    """Guest memory that only this sandbox has: the pages that it has written, including swapped ones."""
    shared_bytes: int
    """Guest memory that the sandbox has mapped from layers, which other sandboxes share."""


@final
class NetworkFlow(TypedDict):
    """A connection or a packet of a sandbox, and what became of it."""

    sandbox: str
    """Id of the sandbox."""
    time_unix_ms: int
    """When it happened, in milliseconds since 1970."""
    phase: Literal["opened", "closed", "denied"]
    """`opened`: the connection was made. `closed`: it ended. `denied`: it was not allowed."""
    direction: Literal["out", "in"]
    """`out`: the guest called. `in`: a caller reached a port of the guest."""
    protocol: Literal["tcp", "udp"] | None
    """Transport protocol. Null: a packet of another protocol, which is never passed on."""
    name: str | None
    """Name that the guest asked for. Null: it gave an address."""
    address: str
    """Address that was dialled, or that the guest tried to reach."""
    port: int
    """Port of the destination. 0 if the protocol has none."""
    rule: str | None
    """The rule that decided. Null: no rule matched."""
    reason: str | None
    """Why it was denied or ended early, as a stable word such as `no_rule`."""
    sent_bytes: int
    """Bytes that the guest sent."""
    received_bytes: int
    """Bytes that the guest received."""
    duration_ms: float
    """How long it was open, in milliseconds."""
    lost: int
    """Number of records before this one that were dropped because there were too many."""


@final
class NetworkPreset(TypedDict):
    """Rules of a network that have a name."""

    name: str
    """Name of the preset, which a rule can have in place of its rules."""
    rules: list[str]
    """The rules that it stands for."""


@final
class PartialForkResponse(TypedDict):
    """The reply to a fork with `partial` in which at least one sandbox did not start."""

    results: list[ForkResult]
    """One result for each requested sandbox."""


@final
class PingResponse(TypedDict):
    """The answer of the agent."""

    pong: Literal[True]
    """Always true: a guest that does not answer is reported as an error."""
    pid: int
    """Process id of the agent in the guest."""
    numpy_version: Literal["unknown"]
    """Always `unknown`, for older clients: the agent is no Python program. `eval` can ask the interpreter."""


@final
class PortUrl(TypedDict):
    """Where a port of a sandbox is called."""

    url: str
    """The URL of the root of the service. A caller that has it may call this port until it expires."""
    expires_at_unix: int | None
    """When the URL is of no use any more, in seconds since 1970. `null`: the controller asks for no token."""


@final
class PruneSnapshotsRequest(TypedDict):
    """Which branches to remove."""

    older_than_secs: NotRequired[int | None]
    """Remove branches that are older than this, in seconds."""
    keep: NotRequired[int | None]
    """Keep this many of the newest branches of each template."""
    dry_run: NotRequired[bool]
    """True: remove nothing, and only report what would be removed."""


@final
class PruneSnapshotsResponseKept(TypedDict):
    tag: str
    """Tag of the branch."""
    reason: str
    """Why the branch is kept, in a sentence."""


@final
class PruneSnapshotsResponse(TypedDict):
    """The outcome of a prune."""

    removed: list[str]
    """Tags that were removed, or would be with `dry_run`."""
    kept: list[PruneSnapshotsResponseKept]
    """Branches that are due and are kept all the same."""


@final
class PtyTicket(TypedDict):
    """The right to one connection to a terminal."""

    ticket: str
    """Name it as a second subprotocol, `forkd.ticket.` and the ticket. It can be used once."""
    expires_unix: int
    """Time after which the ticket cannot be used any more."""


@final
class SandboxStats(TypedDict):
    """Resource usage of a sandbox since it was started."""

    id: str
    """Id of the sandbox."""
    state: Literal["running", "paused", "ended"]
    """State of the sandbox."""
    uptime_secs: float
    """Time since the sandbox was started, in seconds."""
    cpu_secs: float
    """Processor time of the VMM in user and kernel mode, in seconds."""
    rss_bytes: int
    """Resident memory of the VMM, including guest memory."""
    minor_faults: int
    """Page faults of the VMM that needed no input or output."""
    major_faults: int
    """Page faults of the VMM that read from disk."""
    private_bytes: int
    """Guest memory that only this sandbox has: the pages that it has written, including swapped ones."""
    shared_bytes: int
    """Guest memory that the sandbox has mapped from layers, which other sandboxes share."""
    disk_own_bytes: NotRequired[int]
    """Bytes that the sandbox has written to its disk since it was started or branched last. Absent: it has no disk."""
    disk_shared_bytes: NotRequired[int]
    """Bytes of its disk that snapshots hold, which other sandboxes share. Absent: it has no disk."""
    memory_limit_bytes: int | None
    """Memory limit in bytes. Null: no limit."""
    exec_count: int
    """Number of commands and evaluations that this controller process has run in the sandbox."""
    branch_count: int
    """Number of branches that were taken of the sandbox."""


@final
class ShutdownResponse(TypedDict):
    """The controller ends after this reply."""

    pid: int
    """Process id of the controller that is ending."""
    sandboxes_ended: int
    """Number of sandboxes that were ended."""


@final
class SignalRequest(TypedDict):
    """A signal to send to a command."""

    signal: int | str
    """The signal, by its number or by its name with or without `SIG`."""


@final
class SnapshotEventProgress(TypedDict):
    type: Literal["progress"]
    """The build has made progress."""
    stage: str
    """A stable word, such as `image`, `boot`, `warm` or `snapshot`. `output`: a line that the warm-up command printed."""
    message: str
    """What is being done, in words."""
    elapsed_ms: float
    """Time since the request, in milliseconds."""


@final
class SnapshotInfo(TypedDict):
    """A snapshot. An optional field is absent if it has no value, and never null."""

    tag: str
    """Tag of the snapshot."""
    dir: str
    """Directory of the store on the host. It has no `memory.bin` and no `vmstate`: a snapshot is a manifest and layers that snapshots share. An export writes such files."""
    created_at_unix: int
    """Time of creation, in seconds since 1970."""
    status: Literal["writing", "ready", "failed"]
    """`writing`: not forkable yet. `ready`: can be forked. `failed`: cannot be forked; `error` says why."""
    bootable: bool
    """True if the snapshot can be forked."""
    branched_from: NotRequired[str]
    """Id of the sandbox that was branched. Absent for templates."""
    parent_tag: NotRequired[str]
    """Snapshot that its source was started from."""
    pause_ms: NotRequired[int]
    """`pause_us` in whole milliseconds, rounded up."""
    diff_ms: NotRequired[int]
    """Time to copy the changed pages, in whole milliseconds, rounded up: inside the pause for `diff` and `measure_diff`, after it for `live`."""
    diff_physical_bytes: NotRequired[int]
    """Size of the changed pages, which are all that a `diff` or `live` branch stores."""
    diff_logical_bytes: NotRequired[int]
    """Guest memory size in bytes. Present with `diff_ms`."""
    warning: NotRequired[str]
    """A restriction of this snapshot, in a sentence."""
    random_numbers: NotRequired[Literal["from_start", "after_identity"]]
    """When a child starts to draw random numbers that no sibling draws: from its first instruction, or only after it has its own identity. In the second case `warning` says why."""
    network: NotRequired[NetworkPolicy]
    """What its children may reach, unless a fork says otherwise. Absent: they have no network device."""
    safety: NotRequired[Literal["standard", "strict"]]
    """`strict`: its programs stay frozen in each child until the child has its own identity."""
    error: NotRequired[str]
    """Why the snapshot failed, in a sentence."""
    mismatch: NotRequired[str]
    """Why this host cannot restore the snapshot, in a sentence: it has another QEMU or processor. Absent if it can, or if the controller runs with `--vmm-pool 0` and has started no VM yet."""
    durable: NotRequired[bool]
    """True if the snapshot is on disk and synced. A snapshot that is only ready is held in the memory of the pager."""
    source: NotRequired[str]
    """Image that a template was built from."""
    mem_mib: NotRequired[int]
    """Guest memory size in MiB."""
    disk_gib: NotRequired[int]
    """Size of the disk in GiB. Absent: the guest has none."""
    accelerator: NotRequired[str]
    """What runs the guest: `kvm`, or `tcg` for emulation."""
    window: NotRequired[Literal["inside", "monitor"]]
    """What conducted the pause of a live branch: the VMM itself from `inside`, or the pager over its `monitor`."""
    pause_us: NotRequired[float]
    """Time from stopping the processors until they ran again, in microseconds."""
    device_state_us: NotRequired[float]
    """Part of the pause that saved the device state, in microseconds."""
    arm_us: NotRequired[float]
    """Time to write-protect guest memory before the pause, in microseconds. The guest runs meanwhile."""
    touched_pages: NotRequired[int]
    """Pages that were written between write protection and the pause, and were protected again inside the pause."""
    captured_pages: NotRequired[int]
    """Pages that the new layer holds."""
    captured_bytes: NotRequired[int]
    """Bytes that the new layer holds."""
    capture_ms: NotRequired[float]
    """Time from the end of the pause until the last page was copied, in milliseconds."""
    faults: NotRequired[int]
    """Number of writes of the guest that had to wait for a page to be copied first."""
    fault_wait_us_p50: NotRequired[float]
    """Median wait of such a write, in microseconds."""
    fault_wait_us_p99: NotRequired[float]
    """99th percentile of the wait of such a write, in microseconds."""
    fault_wait_us_max: NotRequired[float]
    """Longest wait of such a write, in microseconds."""
    ready_ms: NotRequired[float]
    """Time from the request until the snapshot could be forked, in milliseconds."""
    durable_ms: NotRequired[float]
    """Time from the request until the snapshot was on disk, in milliseconds."""
    audited_pages: NotRequired[int]
    """Number of pages that the audit of the branch compared."""
    differing_pages: NotRequired[int]
    """Number of pages that differed in the audit. Always 0, because a page that differs fails the branch."""
    audited_blocks: NotRequired[int]
    """Number of blocks with content that the audit of the branch compared on the disk, of 4 KiB each."""
    differing_blocks: NotRequired[int]
    """Number of blocks that differed in the audit. Always 0, because a block that differs fails the branch."""


@final
class SnapshotEventResult(TypedDict):
    type: Literal["result"]
    """The template is on disk."""
    snapshot: SnapshotInfo
    """The template."""
    build_ms: float
    """Time to build the root image, in milliseconds."""
    boot_ms: float
    """Time to boot the guest, in milliseconds."""
    warm_ms: float
    """Time to warm the guest up, in milliseconds."""
    snapshot_ms: float
    """Time to take the snapshot, in milliseconds."""


SnapshotEvent: TypeAlias = SnapshotEventProgress | SnapshotEventResult | ErrorEvent
"""One line of the streamed reply of a build. The last line is a result or an error."""


@final
class SnapshotInfoDetail(TypedDict):
    """The sizes of a snapshot, its ancestors and its dependents."""

    tag: str
    """Tag of the snapshot."""
    dir: str
    """Directory of the store on the host. It has no `memory.bin` and no `vmstate`: a snapshot is a manifest and layers that snapshots share. An export writes such files."""
    created_at_unix: NotRequired[int]
    """Time of creation, in seconds since 1970."""
    memory_logical_bytes: int
    """Guest memory size in bytes."""
    memory_physical_bytes: int
    """Size of the layers of the snapshot on disk, in bytes. Layers that other snapshots share are included."""
    disk_physical_bytes: NotRequired[int]
    """Size of all layers of its disk in the store. Absent: it has no disk."""
    vmstate_bytes: int
    """Size of the device state on disk, in bytes."""
    random_numbers: NotRequired[Literal["from_start", "after_identity"]]
    """When a child starts to draw random numbers that no sibling draws: from its first instruction, or only after it has its own identity. In the second case `warning` says why."""
    warning: NotRequired[str]
    """A restriction of this snapshot, in a sentence."""
    parent_tag: NotRequired[str]
    """Snapshot that its source was started from."""
    parent_content_hash: NotRequired[str]
    """Digest of the manifest of the parent."""
    chain_depth: int
    """Number of ancestors."""
    dependents: list[str]
    """Tags of the branches that name this snapshot as their `parent_tag`, and keep it."""
    ancestors: list[str]
    """Tags of the ancestors, from the root to the parent."""
    build: NotRequired[CreateSnapshotRequest]
    """The request that the template was built with: sent again with `replace`, it builds the template again. Absent for branches, and for templates of earlier versions."""


@final
class StartCommandRequest(TypedDict):
    """A command to start, which keeps running after the reply."""

    args: list[str]
    """The program and its arguments. No shell is involved. Empty: the image's ENTRYPOINT and CMD; with `pty` the user's shell."""
    env: NotRequired[dict[str, str] | None]
    """Environment variables, added to the image's own."""
    cwd: NotRequired[str | None]
    """Working directory. Default: the image's working directory."""
    user: NotRequired[str | None]
    """User to run as. Default: the image's user."""
    stdin: NotRequired[bool]
    """True: standard input is a pipe that `POST …/stdin` writes to. False: the command reads end-of-file at once."""
    pty: NotRequired[PtySize]
    """Give the command a terminal of this size. Its output is that of the terminal, all in `stdout`, and `POST …/stdin` types into it."""
    timeout_secs: NotRequired[float | None]
    """Kill the command after this many seconds. Default: no timeout."""
    follow: NotRequired[bool]
    """True: reply with the stream of events. The header `Accept: application/x-ndjson` does the same."""
    on_disconnect: NotRequired[Literal["continue", "kill"]]
    """With `follow`: what happens to the command if the stream ends before it. `kill` also deletes its output."""


@final
class SuspendWorkspaceRequest(TypedDict):
    """How to suspend a workspace."""

    diff: NotRequired[bool]
    """Accepted for older clients. Only changed pages are ever written."""


@final
class UpdateSandboxRequest(TypedDict):
    """Changes to a sandbox. A field that is omitted stays as it is."""

    name: NotRequired[str | None]
    """New name. Null removes the name."""
    labels: NotRequired[Labels | None]
    """New labels, which replace all earlier ones. Null removes all labels."""
    ttl_secs: NotRequired[int | None]
    """New time to live in seconds, counted from now. Null removes the time to live."""
    on_expire: NotRequired[Literal["kill", "pause"]]
    """What to do when the time to live is over."""


@final
class VersionInfo(TypedDict):
    """The versions of the controller and of its API."""

    version: str
    """Version of the controller."""
    api: Literal["v1"]
    """Version of the API."""


@final
class WorkspaceInfo(TypedDict):
    """A named sandbox that outlives its VM. A suspended workspace is a snapshot; resuming it forks that snapshot."""

    id: str
    """Id of the workspace: `ws-` and ten hexadecimal digits."""
    name: str
    """Name of the workspace."""
    source_snapshot_tag: str
    """Snapshot that the workspace was created from."""
    current_state_tag: NotRequired[str]
    """Snapshot of the last suspension. Absent before the first suspension."""
    status: Literal["running", "suspended", "stale"]
    """`stale`: the workspace was running, and its sandbox ended without being suspended."""
    live_sandbox_id: NotRequired[str]
    """Id of its sandbox, while it is running."""
    created_at_unix: int
    """Time of creation, in seconds since 1970."""
    last_active_unix: int
    """Time of the last change of status, in seconds since 1970."""
    memory_limit_mib: NotRequired[int]
    """Memory limit of each of its sandboxes, in MiB."""
    labels: NotRequired[Labels]
    """Labels of each of its sandboxes."""
