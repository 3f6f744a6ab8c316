/**
 * Every number that the wire promises or refuses by, in one place, units last in the name.
 * A limit exists so that one caller cannot take the host with it; a default exists so that the short call is the right one.
 */

/** Tags and names: what forkd's clients already send. */
export const TAG_PATTERN = '^[A-Za-z0-9_-]{1,64}$';
export const SANDBOX_ID_PATTERN = '^sb-[A-Za-z0-9_-]{1,61}$';

/** Keys of labels: as those of containers, without a slash. */
export const LABEL_KEY_PATTERN = '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$';

export const limits = {
  /** Children of one fork request. */
  forkCountMin: 1,
  forkCountMax: 1000,
  forkCountDefault: 1,

  /** How long a boot may take before the agent has answered, when the caller names a root file system himself. */
  bootWaitSecsDefault: 10,
  bootWaitSecsMax: 60,

  labelsMax: 64,
  labelBytesMax: 256,
  /** From now on; a month. */
  ttlSecsMax: 31 * 86_400,
  /** A memory limit below this would end the VMM before its guest ran. */
  memoryLimitMibMin: 64,
  idempotencyKeyBytesMax: 255,
  /** How long the reply to an idempotency key is kept. */
  idempotencyKeepSecs: 86_400,
  /** The latest part of a guest's console, where the caller does not say how much. */
  logTailBytesDefault: 64 * 1024,
  logTailBytesMax: 16 * 1024 * 1024,
  /** Events that a reader who comes back can still have. */
  eventsKeptMax: 1000,

  memMibMin: 64,
  memMibMax: 1_048_576,
  memMibDefault: 512,
  vcpusMin: 1,
  vcpusMax: 32,
  vcpusDefault: 1,

  /** exec waits for its command; 0 is refused, since a command without any time is a mistake. */
  execTimeoutSecsDefault: 30,
  execTimeoutSecsMax: 86_400,
  evalTimeoutSecsDefault: 30,

  /** Bytes of each stream that a reply of exec carries. What is more stays in the command's ring, and can be streamed. */
  execOutputBytesMax: 16 * 1024 * 1024,
  commandArgsMax: 4096,
  commandArgBytesMax: 128 * 1024,
  envEntriesMax: 4096,
  pathBytesMax: 4096,

  /** A JSON body. Files and stdin are raw bodies, streamed, and have no limit but the guest's disk. */
  jsonBodyBytesMax: 8 * 1024 * 1024,
  stdinBase64BytesMax: 4 * 1024 * 1024,
  codeBytesMax: 4 * 1024 * 1024,
  /** A line of a streamed reply: one chunk of output in base64 and a little JSON round it. */
  ndjsonLineBytesMax: 4 * 1024 * 1024,

  branchConcurrencyDefault: 4,
  /** VMMs that are started before anybody asks for them. */
  vmmPoolDefault: 4,
  tokenBytesMin: 16,
  idleExitSecsDefault: 300,
} as const;

export const defaultListen = { host: '127.0.0.1', port: 8889 } as const;
