/**
 * Every limit and default of the wire, with the unit last in its name.
 * A limit keeps one caller from exhausting the host. A default makes the short call the right one.
 */

/** Tags and names. */
export const TAG_PATTERN = '^[A-Za-z0-9_-]{1,64}$';
export const SANDBOX_ID_PATTERN = '^sb-[A-Za-z0-9_-]{1,61}$';

/** The SHA-256 of a file or of a text. */
export const DIGEST_PATTERN = '^sha256:[0-9a-f]{64}$';

/** Keys of labels: like those of container labels, without a slash. */
export const LABEL_KEY_PATTERN = '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$';

/** The VMMs that run sandboxes; the first is the default. */
export const engineNames = ['qemu', 'firecracker'] as const;

export const limits = {
  /** Children of one fork request. */
  forkCountMin: 1,
  forkCountMax: 1000,
  forkCountDefault: 1,

  /** How long to wait for the agent of a guest that boots from a root file system given by the caller. */
  bootWaitSecsDefault: 10,
  bootWaitSecsMax: 60,

  labelsMax: 64,
  labelCharsMax: 256,
  /** The time to live is counted from now, and is at most a month. */
  ttlSecsMax: 31 * 86_400,
  /** Packages and copies of one template. */
  packagesMax: 256,
  packageCharsMax: 256,
  copiesMax: 256,
  /** A lower memory limit would kill the VMM before its guest runs. */
  memoryLimitMibMin: 64,
  idempotencyKeyBytesMax: 255,
  /** How long the reply to an idempotency key is kept. */
  idempotencyKeepSecs: 86_400,
  /** Number of replies that are kept. The oldest are dropped first. */
  idempotencyRepliesMax: 10_000,
  /** Default number of bytes from the end of a guest's console. */
  logTailBytesDefault: 64 * 1024,
  logTailBytesMax: 16 * 1024 * 1024,
  /** Number of past events that a reader can still receive after reconnecting. */
  eventsKeptMax: 1000,

  /** A guest of busybox alone boots with 80 MiB, and not with 72. */
  memMibMin: 96,
  memMibMax: 1_048_576,
  memMibDefault: 512,
  /** Size of a template's disk. Its file system keeps 64 MiB of it for its journal. */
  diskGibMin: 1,
  diskGibMax: 512,
  vcpusMin: 1,
  vcpusMax: 32,
  vcpusDefault: 1,
  /** The processor models that a template can be booted with; the first is the default. */
  cpuModels: ['host', 'x86-64-v2'],

  /** Time that exec waits for its command. A timeout of 0 is refused, because it is always a mistake. */
  execTimeoutSecsDefault: 30,
  execTimeoutSecsMax: 86_400,
  evalTimeoutSecsDefault: 30,

  /** Bytes of each stream in a reply of exec. More output is counted and dropped. Streamed output has no such bound. */
  execOutputBytesMax: 8 * 1024 * 1024,
  /** Default number of bytes of each stream that clients keep when they collect streamed output. */
  collectedOutputBytesMax: 64 * 1024 * 1024,
  /** Length of the sentence of an error. */
  errorCharsMax: 16 * 1024,
  commandArgsMax: 4096,
  /** Size of a terminal, in characters. */
  ptyColsMax: 1000,
  ptyRowsMax: 500,
  /** Connections to the terminals of one sandbox. */
  ptyViewersMax: 32,
  /** Length of a message to a terminal. */
  ptyMessageBytesMax: 64 * 1024,
  /** Bytes that a viewer who acknowledges them may have unacknowledged. */
  ptyWindowBytesMin: 16 * 1024,
  ptyWindowBytesMax: 16 * 1024 * 1024,
  /** How long a ticket to a terminal may be used. */
  ptyTicketSecs: 30,
  commandArgBytesMax: 128 * 1024,
  envEntriesMax: 4096,
  pathBytesMax: 4096,

  /** Size of a JSON body. Files and stdin are streamed as raw bodies, and only the guest's disk limits them. */
  jsonBodyBytesMax: 128 * 1024,
  /** Number of array elements and object fields of a JSON body, over all levels. */
  jsonValuesMax: 1024,
  jsonDepthMax: 32,
  /** The same limits for routes that take a command with its input, or a program. */
  largeJsonBodyBytesMax: 8 * 1024 * 1024,
  largeJsonValuesMax: 16 * 1024,
  stdinBase64BytesMax: 4 * 1024 * 1024,
  codeBytesMax: 4 * 1024 * 1024,
  /** Length of a line of a streamed reply: one chunk of output in base64, inside a little JSON. */
  ndjsonLineBytesMax: 4 * 1024 * 1024,

  /** Changes in a child's memory before its first instruction. */
  refreshesMax: 8,
  refreshBytesMax: 64,
  refreshReasonBytesMax: 1024,

  /** Rules that allow, and as many that deny. A preset counts as its rules. */
  networkRulesMax: 256,
  /** Lifetime of a signed URL of a port. */
  portUrlSecsDefault: 3600,
  portUrlSecsMax: 7 * 86_400,
  networkRuleCharsMax: 300,
  /** Length of the names and connections that a snapshot keeps of its guest. */
  networkInheritedCharsMax: 256 * 1024,
  /** Records of flows that can still be read. */
  networkFlowsKeptMax: 4096,

  branchConcurrencyDefault: 4,
  /** Number of VMMs that are started ahead of the next forks. */
  vmmPoolDefault: 4,
  tokenBytesMin: 16,
  idleExitSecsDefault: 300,
} as const;

export const defaultListen = { host: '127.0.0.1', port: 8889 } as const;
