/** Limits and defaults of E2B's wire. */
export const limits = {
  /** Time to live of a sandbox whose creator names none, and what an SDK asks for when it connects. */
  timeoutSecsDefault: 300,
  forkCountMax: 20,
  pageSizeDefault: 100,
  pageSizeMax: 1000,

  /** A message of a stream, such as a command with its variables. */
  envelopeBytesMax: 1024 * 1024,
  /** The interval at which a silent stream shows that it is alive, unless the client asks for another. */
  keepaliveSecsDefault: 90,
  keepaliveSecsMin: 1,
  keepaliveSecsMax: 3600,

  /** Entries of a recursive listing. */
  entriesMax: 10_000,
  depthMax: 64,
  /** Files of one upload. */
  uploadFilesMax: 1000,

  /** Sandboxes of which the controller remembers users and commands. */
  memoriesMax: 4096,
  /** Commands per sandbox of which it remembers tag and working directory. */
  commandsMax: 1024,
  /** Files of a guest that the translation itself reads: users, groups, variables. */
  guestFileBytesMax: 512 * 1024,

  /** A line of a result of the interpreter, such as an image in base64. */
  resultCharsMax: 32 * 1024 * 1024,
  /** The time to reach a cell whose caller has left. */
  interruptMs: 5_000,

  watchersMax: 256,
  watcherEventsMax: 4096,
  /** A watcher that is not polled for so long is removed. */
  watcherIdleMs: 10 * 60_000,
} as const;

/** The version of E2B's daemon whose features are here. SDKs refuse by themselves what a later version has added. */
export const ENVD_VERSION = '0.5.7';
