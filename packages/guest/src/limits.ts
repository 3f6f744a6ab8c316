/** Limits of the channel and the client, in one place. Those of the channel are the agent's as well (`channel/frame.rs`). */

const kib = 1024;
const mib = 1024 * kib;

export const framePayloadBytesMax = 16 * kib;

/** How long between two OPENs while no OPEN_ACK has come: at first, and at most. */
export const openRetryMsMin = 100;
export const openRetryMsMax = 1_000;

/** How long between two looks for a socket that is not there yet. */
export const socketRetryMs = 20;

export const connectTimeoutMsDefault = 30_000;
/** Time for one request and its reply, or for the head of a reply that is a stream. */
export const requestTimeoutMsDefault = 30_000;
/** How long a file that is being moved may stand still. */
export const transferStallMs = 120_000;

/**
 * HTTP/2 windows of what the guest sends. That of a stream, with the buffers beside it, stays under the half of an output ring that the
 * agent keeps behind each follower: what was on its way when a connection broke can be read again, without a gap.
 */
export const streamWindowBytes = 256 * kib;
export const connectionWindowBytes = 4 * mib;

/** Limits on what is read from the channel of one guest. */
export const intake = {
  turnBytes: 256 * kib,
  /** Bytes of one turn while others wait for theirs. A pause costs a guest that sends alone a third of its rate. */
  crowdedTurnBytes: 64 * kib,
  bytesPerSec: 128 * mib,
  burstBytes: 32 * mib,
  /** Bytes that no caller reads: over this the connection ends. A window's worth in flight is well below it. */
  unaskedBytesMax: 8 * mib,
  unaskedBytesPerSec: mib,
  /** Bytes that each call may bring besides its reply: most of all, bytes in flight when the call is cancelled. */
  callBytes: 256 * kib,
} as const;

/** HTTP/2 with an agent that means harm: what it may send beside the answers. Over any of these the connection ends. */
export const http2 = {
  /** All headers of one answer. */
  headersBytesMax: 8 * kib,
  headersMax: 32,
  settingsMax: 32,
  invalidFramesMax: 16,
  rejectedStreamsMax: 16,
  sessionMemoryMibMax: 16,
} as const;

/** The words of an error that the agent tells. */
export const messageCharsMax = 1024;

/** How many bytes of JSON a route of the agent may answer with. */
export const replyBytesMax = {
  nothing: 1 * kib,
  ping: 4 * kib,
  identity: 4 * kib,
  refresh: 4 * kib,
  thawed: 1 * kib,
  started: 4 * kib,
  /** The target of a link has up to 4096 bytes, each of which may take six in JSON. */
  stat: 32 * kib,
  error: 16 * kib,
  /** A command has up to 4 MiB of arguments: what its request could have. */
  command: 5 * mib,
  commands: 16 * mib,
  directory: 16 * mib,
  /** Four texts of 1 MiB, each of whose bytes may take six in JSON. */
  evaluation: 25 * mib,
} as const;

/** Entries of a directory, as many as the agent gives, and commands: 1024 that run and 256 that have ended. */
export const directoryEntriesMax = 100_000;
export const commandsMax = 1280;

/** JSON up to this long is parsed in one go; longer JSON in pieces of this length, with a turn of the event loop between them. */
export const jsonPieceBytes = 16 * kib;
export const jsonDepthMax = 8;
/** Values in one answer: the arguments of all commands that are listed. */
export const jsonValuesMax = 1_000_000;

/** Output frames carry at most 32 KiB of output and an offset; a longer one is not the agent's. */
export const outputFrameBytesMax = 64 * kib;
/** Shorter pieces of output that follow each other are put together: one byte at a time is not passed on so. */
export const outputPieceBytesMin = 4 * kib;
/** How many events of output are passed on in one turn of the event loop. */
export const outputEventsPerTurn = 256;
/** Bytes of each stream that are collected, unless the caller says how many. */
export const collectedBytesMaxDefault = 8 * mib;
export const collectedBytesMin = 64 * kib;
