import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import {
  Argument,
  Count,
  Environment,
  field,
  GuestPath,
  Labels,
  Measure,
  Nullable,
  Omittable,
  Safety,
  Tag,
} from './common.ts';
import { NetworkPolicy } from './network.ts';

export const SandboxState = Type.Union([Type.Literal('running'), Type.Literal('paused'), Type.Literal('ended')]);
export type SandboxState = Static<typeof SandboxState>;

/** Why a sandbox ended. */
const EndReason = Type.Union([
  Type.Literal('killed'),
  Type.Literal('expired'),
  Type.Literal('suspended'),
  Type.Literal('guest_stopped'),
  Type.Literal('guest_panicked'),
  Type.Literal('out_of_memory'),
  Type.Literal('crashed'),
  Type.Literal('lost'),
]);
export type EndReason = Static<typeof EndReason>;
/** The same as a list, for the labels of a metric. */
export const endReasons: readonly EndReason[] = EndReason.anyOf.map((literal) => literal.const);

/** Action at the end of a sandbox's time to live. */
export const OnExpire = Type.Union([Type.Literal('kill'), Type.Literal('pause')]);
export type OnExpire = Static<typeof OnExpire>;

const TtlSecs = Type.Integer({ minimum: 1, maximum: limits.ttlSecsMax });

const sandboxExample = {
  id: 'sb-3f9a1c0b7e',
  snapshot_tag: 'python',
  netns: null,
  guest_addr: 'unix:/run/forkd/vms/sb-3f9a1c0b7e/agent.sock',
  created_at_unix: 1_767_225_600,
  pid: 4711,
  memory_limit_mib: null,
  has_branched: false,
  last_branch_memory_path: null,
  branch_count: 0,
  hostname: 'sb-3f9a1c0b7e',
  state: 'running',
  fork_ms: 6.2,
  ready_ms: 8.9,
};

export const SandboxInfo = Type.Object(
  {
    id: field(Type.String(), 'Id of the sandbox: `sb-` and ten hexadecimal digits.'),
    snapshot_tag: field(Type.String(), 'Snapshot that the sandbox was forked from.'),
    netns: field(
      Nullable(Type.String()),
      'Always null, for older clients: a guest needs no network namespace. See `network`.',
    ),
    guest_addr: field(
      Type.String(),
      'Address of the agent in the guest: `unix:` and the path of a socket on the host.',
    ),
    created_at_unix: field(Count, 'Time of creation, in seconds since 1970.'),
    pid: field(Nullable(Type.Integer()), 'Process id of its VMM on the host.'),
    memory_limit_mib: field(Nullable(Count), 'Memory limit in MiB. Null: no limit.'),
    has_branched: field(Type.Boolean(), 'True if the sandbox has been branched at least once.'),
    last_branch_memory_path: field(
      Nullable(Type.String()),
      'File with the memory of its last branch, in the store. Null before the first branch.',
    ),
    branch_count: field(Count, 'Number of branches that were taken of the sandbox.'),

    hostname: field(Type.Optional(Type.String()), 'Host name inside the guest.'),
    state: field(
      Type.Optional(SandboxState),
      '`paused`: its processors are stopped and its memory is kept. A paused sandbox answers no request to its guest. ' +
        '`ended`: nothing of it is left but this description, which is kept for an hour, of at most 100 sandboxes, also by the ' +
        'next controller.',
    ),
    stalled: field(
      Type.Optional(Type.String()),
      'Why it stands still although it is not paused, in a sentence: the host has no space left for its disk, or the disk server ' +
        'has ended. It continues by itself, and has lost nothing. Absent: it runs.',
    ),
    ended_at_unix: field(Type.Optional(Count), 'Time of its end, in seconds since 1970. Absent: it has not ended.'),
    end_reason: field(
      Type.Optional(EndReason),
      'Why it ended. `killed`: a request ended it. `guest_stopped`: its guest shut down. `crashed`: its VMM failed. ' +
        '`lost`: its VMM ended while nobody saw it, such as while no controller ran.',
    ),
    end_message: field(Type.Optional(Type.String()), 'The same in a sentence.'),
    console_tail: field(
      Type.Optional(Type.String()),
      'The last lines of its console, if it ended by itself. Control characters are escaped.',
    ),
    name: field(Type.Optional(Type.String()), 'Name of the sandbox. Accepted in place of the id everywhere.'),
    network: field(Type.Optional(NetworkPolicy), 'What the sandbox may reach. Absent: it has no network device.'),
    labels: field(Type.Optional(Labels), 'Labels of the sandbox.'),
    expires_at_unix: field(
      Type.Optional(Count),
      'When its time to live is over, in seconds since 1970. Absent: the sandbox has no time to live.',
    ),
    on_expire: field(Type.Optional(OnExpire), 'What to do when the time to live is over.'),
    workspace: field(Type.Optional(Type.String()), 'Name of the workspace that the sandbox belongs to.'),
    warnings: field(
      Type.Optional(Type.Array(Type.String())),
      'What the request asked for and did not get, in sentences.',
    ),
    fork_ms: field(Type.Optional(Measure), 'Time from the start of the restore until the VM ran, in milliseconds.'),
    ready_ms: field(
      Type.Optional(Measure),
      'Time from the start of the restore until the guest had its own identity and answered, in milliseconds.',
    ),
  },
  { description: 'A sandbox: a running or paused VM.', examples: [sandboxExample] },
);
export type SandboxInfo = Static<typeof SandboxInfo>;

export const SandboxList = Type.Array(SandboxInfo);

export const ListSandboxesQuery = Type.Object({
  label: field(
    Type.Optional(Type.Union([Type.String(), Type.Array(Type.String(), { maxItems: limits.labelsMax })])),
    'Only sandboxes that carry this label: `key` or `key=value`. May be repeated; then all of them must match.',
  ),
  name: field(Type.Optional(Type.String()), 'Only the sandbox with this name.'),
  snapshot_tag: field(Type.Optional(Type.String()), 'Only sandboxes that were forked from this snapshot.'),
  workspace: field(Type.Optional(Type.String()), 'Only the sandbox of this workspace.'),
  state: field(Type.Optional(SandboxState), 'Only sandboxes in this state. Default: running and paused ones.'),
});
export type ListSandboxesQuery = Static<typeof ListSandboxesQuery>;

export const CreateSandboxesRequest = Type.Object(
  {
    snapshot_tag: field(Tag, 'Snapshot to fork.'),
    n: field(
      Type.Optional(
        Type.Integer({ default: limits.forkCountDefault, minimum: limits.forkCountMin, maximum: limits.forkCountMax }),
      ),
      'Number of sandboxes to start.',
    ),
    per_child_netns: field(
      Type.Optional(Type.Boolean({ default: false })),
      'Accepted for older clients. Every sandbox that has a network has one of its own.',
    ),
    network: field(
      Omittable(NetworkPolicy),
      'What the sandboxes may reach, in place of what the snapshot says. Needs a snapshot with a network device.',
    ),
    memory_limit_mib: field(
      Omittable(Type.Integer({ minimum: limits.memoryLimitMibMin, maximum: limits.memMibMax })),
      'Memory limit of each sandbox, in MiB. Default: no limit.',
    ),
    prewarm: field(
      Type.Optional(Type.Boolean({ default: false })),
      'Accepted for older clients. The first branch of a sandbox costs no more than later ones.',
    ),
    live_fork: field(
      Type.Optional(Type.Boolean({ default: false })),
      'Accepted for older clients. Every sandbox can be branched live.',
    ),
    hugepages: field(
      Type.Optional(Type.Boolean({ default: false })),
      'Accepted for older clients. Layers are mapped in pages of 4 KiB, and a warning says so.',
    ),
    name: field(
      Omittable(Tag),
      'Name of the sandbox, unique among the sandboxes that exist. Only if `n` is 1. Accepted in place of the id everywhere.',
    ),
    labels: field(Omittable(Labels), 'Labels of each sandbox.'),
    ttl_secs: field(Omittable(TtlSecs), 'Time to live in seconds. Default: a sandbox lives until it is ended.'),
    on_expire: field(Type.Optional(OnExpire), 'What to do when the time to live is over. Default: `kill`.'),
    safety: field(
      Omittable(Safety),
      '`strict`: the request fails unless the snapshot was taken with `safety: "strict"`. Default: `standard`, which accepts ' +
        'both kinds of snapshot.',
    ),
    partial: field(
      Type.Optional(Type.Boolean({ default: false })),
      'True: if some of the sandboxes fail to start, keep the others, and reply 207 with one result for each. False: keep ' +
        'all or none.',
    ),
  },
  { description: 'Sandboxes to start.', examples: [{ snapshot_tag: 'python', n: 2, labels: { team: 'search' } }] },
);
export type CreateSandboxesRequest = Static<typeof CreateSandboxesRequest>;

const forkIndex = field(Count, 'Position among the requested sandboxes, from 0.');

const failedForkExample = {
  index: 1,
  error: 'The host has too little memory for this sandbox.',
  code: 'out_of_memory',
  hint: 'End some sandboxes, or start fewer.',
};

export const ForkResult = Type.Union(
  [
    Type.Object({ index: forkIndex, sandbox: field(SandboxInfo, 'The sandbox that was started.') }),
    Type.Object({
      index: forkIndex,
      error: field(Type.String(), 'Why the sandbox did not start, in one sentence.'),
      code: field(Type.String(), 'Stable error code.'),
      hint: field(Type.Optional(Type.String()), 'What to do about the error.'),
    }),
  ],
  { description: 'The outcome of one sandbox of a partial fork: the sandbox, or an error.' },
);
export type ForkResult = Static<typeof ForkResult>;

export const PartialForkResponse = Type.Object(
  { results: field(Type.Array(ForkResult), 'One result for each requested sandbox.') },
  {
    description: 'The reply to a fork with `partial` in which at least one sandbox did not start.',
    examples: [{ results: [{ index: 0, sandbox: sandboxExample }, failedForkExample] }],
  },
);
export type PartialForkResponse = Static<typeof PartialForkResponse>;

export const UpdateSandboxRequest = Type.Object(
  {
    name: field(Omittable(Tag), 'New name. Null removes the name.'),
    labels: field(Omittable(Labels), 'New labels, which replace all earlier ones. Null removes all labels.'),
    ttl_secs: field(
      Omittable(TtlSecs),
      'New time to live in seconds, counted from now. Null removes the time to live.',
    ),
    on_expire: field(Type.Optional(OnExpire), 'What to do when the time to live is over.'),
  },
  {
    description: 'Changes to a sandbox. A field that is omitted stays as it is.',
    examples: [{ name: 'worker-1', ttl_secs: 3600 }],
  },
);
export type UpdateSandboxRequest = Static<typeof UpdateSandboxRequest>;

const privateBytes = field(
  Count,
  'Guest memory that only this sandbox has: the pages that it has written, including swapped ones.',
);
const sharedBytes = field(Count, 'Guest memory that the sandbox has mapped from layers, which other sandboxes share.');

export const SandboxStats = Type.Object(
  {
    id: field(Type.String(), 'Id of the sandbox.'),
    state: field(SandboxState, 'State of the sandbox.'),
    uptime_secs: field(Measure, 'Time since the sandbox was started, in seconds.'),
    cpu_secs: field(Measure, 'Processor time of the VMM in user and kernel mode, in seconds.'),
    rss_bytes: field(Count, 'Resident memory of the VMM, including guest memory.'),
    minor_faults: field(Count, 'Page faults of the VMM that needed no input or output.'),
    major_faults: field(Count, 'Page faults of the VMM that read from disk.'),
    private_bytes: privateBytes,
    shared_bytes: sharedBytes,
    disk_own_bytes: field(
      Type.Optional(Count),
      'Bytes that the sandbox has written to its disk since it was started or branched last. Absent: it has no disk.',
    ),
    disk_shared_bytes: field(
      Type.Optional(Count),
      'Bytes of its disk that snapshots hold, which other sandboxes share. Absent: it has no disk.',
    ),
    memory_limit_bytes: field(Nullable(Count), 'Memory limit in bytes. Null: no limit.'),
    exec_count: field(Count, 'Number of commands and evaluations that this controller process has run in the sandbox.'),
    branch_count: field(Count, 'Number of branches that were taken of the sandbox.'),
  },
  {
    description: 'Resource usage of a sandbox since it was started.',
    examples: [
      {
        id: 'sb-3f9a1c0b7e',
        state: 'running',
        uptime_secs: 81.4,
        cpu_secs: 0.37,
        rss_bytes: 96_468_992,
        minor_faults: 8123,
        major_faults: 0,
        private_bytes: 14_680_064,
        shared_bytes: 75_497_472,
        memory_limit_bytes: null,
        exec_count: 3,
        branch_count: 1,
      },
    ],
  },
);
export type SandboxStats = Static<typeof SandboxStats>;

export const LogsQuery = Type.Object({
  tail_bytes: field(
    Type.Optional(Type.Integer({ default: limits.logTailBytesDefault, minimum: 0, maximum: limits.logTailBytesMax })),
    'Number of bytes to return from the end of the console output.',
  ),
  follow: field(
    Type.Optional(Type.Boolean({ default: false })),
    'True: keep the stream open, and send new output as it appears.',
  ),
});
export type LogsQuery = Static<typeof LogsQuery>;

/** Fields of `exec` and `commands`: how to start a process in the guest. */
export const commandFields = {
  args: field(
    Type.Array(Argument, { minItems: 1, maxItems: limits.commandArgsMax }),
    'The program and its arguments. No shell is involved.',
  ),
  env: field(Omittable(Environment), "Environment variables, added to the image's own."),
  cwd: field(Omittable(GuestPath), "Working directory. Default: the image's working directory."),
  user: field(Omittable(Type.String({ minLength: 1, maxLength: 256 })), "User to run as. Default: the image's user."),
};

export const ExecRequest = Type.Object(
  {
    ...commandFields,
    timeout_secs: field(
      Type.Optional(
        Type.Number({
          default: limits.execTimeoutSecsDefault,
          exclusiveMinimum: 0,
          maximum: limits.execTimeoutSecsMax,
        }),
      ),
      'Kill the command after this many seconds.',
    ),
    stdin: field(
      Omittable(Type.String({ maxLength: limits.stdinBase64BytesMax })),
      'Standard input, in base64. Default: empty.',
    ),
  },
  {
    description: 'A command to run to its end.',
    examples: [{ args: ['python3', '-c', 'print(6 * 7)'], timeout_secs: 10 }],
  },
);
export type ExecRequest = Static<typeof ExecRequest>;

/** Fields that say what the reply leaves out. Nothing is cut without them. */
const cutFields = {
  truncated: field(
    Type.Optional(Type.Boolean()),
    'True if the output or the result was longer than a reply can carry, and was cut.',
  ),
  stdout_dropped_bytes: field(Type.Optional(Count), 'Number of bytes of standard output that were cut, if known.'),
  stderr_dropped_bytes: field(Type.Optional(Count), 'Number of bytes of standard error that were cut, if known.'),
};

export const ExecResponse = Type.Object(
  {
    stdout: field(Type.String(), 'Standard output, as text. At most the first 8 MiB.'),
    stderr: field(Type.String(), 'Standard error, as text. At most the first 8 MiB.'),
    exit_code: field(Type.Integer(), 'Exit code. 128 plus the number of the signal that ended the command.'),
    ...cutFields,
    lost_bytes: field(
      Type.Optional(Count),
      'Number of bytes of output that the guest had already dropped when they were read.',
    ),
  },
  { description: 'The outcome of a command.', examples: [{ stdout: '42\n', stderr: '', exit_code: 0 }] },
);
export type ExecResponse = Static<typeof ExecResponse>;

export const EvalRequest = Type.Object(
  {
    code: field(Type.String({ maxLength: limits.codeBytesMax }), 'Python code.'),
    timeout_secs: field(
      Type.Optional(
        Type.Number({
          default: limits.evalTimeoutSecsDefault,
          exclusiveMinimum: 0,
          maximum: limits.execTimeoutSecsMax,
        }),
      ),
      'Interrupt the code after this many seconds. An evaluation that still waits for an earlier one is given up instead (`busy`).',
    ),
  },
  { description: 'Python code to evaluate.', examples: [{ code: 'import math\nmath.sqrt(2)' }] },
);
export type EvalRequest = Static<typeof EvalRequest>;

export const EvalResponse = Type.Object(
  {
    result: field(Nullable(Type.String()), 'The `repr` of the last expression. Null if there is none.'),
    error: field(
      Nullable(Type.String()),
      'Why the evaluation failed, in one line: the exception that the code raised, or what ended the interpreter.',
    ),
    traceback: field(Type.Optional(Type.String()), 'The traceback, if the code raised an exception.'),
    exit_code: field(Type.Integer(), '0 on success, another number if `error` is set.'),
    stdout: field(Type.Optional(Type.String()), 'What the code printed to standard output.'),
    stderr: field(Type.Optional(Type.String()), 'What the code printed to standard error.'),
    ...cutFields,
    timed_out: field(Type.Optional(Type.Boolean()), 'True if the code was interrupted because its time was over.'),
    state_lost: field(
      Type.Optional(Type.Boolean()),
      'True if the interpreter ended and lost its state. The next evaluation starts a fresh interpreter.',
    ),
  },
  {
    description: 'The outcome of an evaluation.',
    examples: [{ result: '1.4142135623730951', error: null, exit_code: 0, stdout: '', stderr: '' }],
  },
);
export type EvalResponse = Static<typeof EvalResponse>;

export const PingResponse = Type.Object(
  {
    pong: field(Type.Literal(true), 'Always true: a guest that does not answer is reported as an error.'),
    pid: field(Type.Integer(), 'Process id of the agent in the guest.'),
    numpy_version: field(
      Type.Literal('unknown'),
      'Always `unknown`, for older clients: the agent is no Python program. `eval` can ask the interpreter.',
    ),
  },
  {
    additionalProperties: true,
    description: 'The answer of the agent.',
    examples: [{ pong: true, pid: 1, numpy_version: 'unknown' }],
  },
);
export type PingResponse = Static<typeof PingResponse>;

export const MemoryInfo = Type.Object(
  { private_bytes: privateBytes, shared_bytes: sharedBytes },
  {
    description: 'Guest memory of a sandbox that is resident now.',
    examples: [{ private_bytes: 14_680_064, shared_bytes: 75_497_472 }],
  },
);
export type MemoryInfo = Static<typeof MemoryInfo>;

export const FloorInfo = Type.Object(
  {
    pause_us: field(Measure, 'Time from stopping the processors until they ran again, in microseconds.'),
    device_state_us: field(Measure, 'Part of the pause that saved the device state, in microseconds.'),
  },
  {
    description: 'An empty pause: stop, save the device state, run. No live branch can pause for less.',
    examples: [{ pause_us: 1480, device_state_us: 910 }],
  },
);
export type FloorInfo = Static<typeof FloorInfo>;
