/** Limits of the channel and the client, in one place. Those of the channel are the agent's as well (`channel/frame.rs`). */

const KIB = 1024;
const MIB = 1024 * KIB;

export const FRAME_PAYLOAD_BYTES_MAX = 16 * KIB;

/** How long between two OPENs while no OPEN_ACK has come: at first, and at most. */
export const OPEN_RETRY_MS_MIN = 100;
export const OPEN_RETRY_MS_MAX = 1_000;

/** How long between two looks for a socket that is not there yet. */
export const SOCKET_RETRY_MS = 20;

export const CONNECT_TIMEOUT_MS_DEFAULT = 30_000;
/** Time for one request and its reply, or for the head of a reply that is a stream. */
export const REQUEST_TIMEOUT_MS_DEFAULT = 30_000;
/** How long a file that is being moved may stand still. */
export const TRANSFER_STALL_MS = 120_000;

/**
 * HTTP/2 windows of what the guest sends. That of a stream, with the buffers beside it, stays under the half of an output ring that the
 * agent keeps behind each follower: what was on its way when a connection broke can be read again, without a gap.
 */
export const STREAM_WINDOW_BYTES = 256 * KIB;
export const CONNECTION_WINDOW_BYTES = 4 * MIB;

/** Limits on what is read from the channel of one guest. */
export const intake = {
  turnBytes: 256 * KIB,
  /** Bytes of one turn while others wait for theirs. A pause costs a guest that sends alone a third of its rate. */
  crowdedTurnBytes: 64 * KIB,
  bytesPerSec: 128 * MIB,
  burstBytes: 32 * MIB,
  /** Bytes that no caller reads: over this the connection ends. A window's worth in flight is well below it. */
  unaskedBytesMax: 8 * MIB,
  unaskedBytesPerSec: MIB,
  /** Bytes that each call may bring besides its reply: most of all, bytes in flight when the call is cancelled. */
  callBytes: 256 * KIB,
} as const;

/** HTTP/2 with an agent that means harm: what it may send beside the answers. Over any of these the connection ends. */
export const http2 = {
  /** All headers of one answer. */
  headersBytesMax: 8 * KIB,
  headersMax: 32,
  settingsMax: 32,
  invalidFramesMax: 16,
  rejectedStreamsMax: 16,
  sessionMemoryMibMax: 16,
} as const;

/** The words of an error that the agent tells. */
export const MESSAGE_CHARS_MAX = 1024;

/** How many bytes of JSON a route of the agent may answer with. */
export const replyBytesMax = {
  nothing: 1 * KIB,
  ping: 4 * KIB,
  identity: 4 * KIB,
  refresh: 4 * KIB,
  thawed: 1 * KIB,
  started: 4 * KIB,
  /** The target of a link has up to 4096 bytes, each of which may take six in JSON. */
  stat: 32 * KIB,
  error: 16 * KIB,
  change: 64 * KIB,
  /** A command has up to 4 MiB of arguments: what its request could have. */
  command: 5 * MIB,
  commands: 16 * MIB,
  directory: 16 * MIB,
  /** Four texts of 1 MiB, each of whose bytes may take six in JSON. */
  evaluation: 25 * MIB,
} as const;

/** Entries of a directory, as many as the agent gives, and commands: 1024 that run and 256 that have ended. */
export const DIRECTORY_ENTRIES_MAX = 100_000;
export const COMMANDS_MAX = 1280;

/** JSON up to this long is parsed in one go; longer JSON in pieces of this length, with a turn of the event loop between them. */
export const JSON_PIECE_BYTES = 16 * KIB;
export const JSON_DEPTH_MAX = 8;
/** Values in one answer: the arguments of all commands that are listed. */
export const JSON_VALUES_MAX = 1_000_000;

/** A frame carries at most 32 KiB of output and an offset, or two paths, each byte of which may take six in JSON. */
export const FRAME_BYTES_MAX = 64 * KIB;
/** Shorter pieces of output that follow each other are put together: one byte at a time is not passed on so. */
export const OUTPUT_PIECE_BYTES_MIN = 4 * KIB;
/** How many events of output are passed on in one turn of the event loop. */
export const OUTPUT_EVENTS_PER_TURN = 256;
/** Bytes of each stream that are collected, unless the caller says how many. */
export const COLLECTED_BYTES_MAX_DEFAULT = 8 * MIB;
export const COLLECTED_BYTES_MIN = 64 * KIB;
