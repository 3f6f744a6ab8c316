/** Limits of the channel and the client, in one place. Those of the channel are the agent's as well (`channel/frame.rs`). */

export const framePayloadBytesMax = 16 * 1024;

/** How long between two OPENs while no OPEN_ACK has come: at first, and at most. */
export const openRetryMsMin = 100;
export const openRetryMsMax = 1_000;

/** How long between two looks for a socket that is not there yet. */
export const socketRetryMs = 20;

export const connectTimeoutMsDefault = 30_000;
/** For one request and its answer. Following a command and moving a file have no deadline unless one is given. */
export const requestTimeoutMsDefault = 30_000;

/**
 * HTTP/2 windows of what the guest sends. That of a stream, with the buffers beside it, stays under the half of an output ring that the
 * agent keeps behind each follower: what was on its way when a connection broke can be read again, without a gap.
 */
export const streamWindowBytes = 256 * 1024;
export const connectionWindowBytes = 4 * 1024 * 1024;

/** A JSON answer longer than this is refused. */
export const jsonBytesMax = 64 * 1024 * 1024;

/** Output frames carry at most 32 KiB of output; a longer one is not the agent's. */
export const outputFrameBytesMax = 1024 * 1024;
