import { limits as apiLimits } from '@forkd/api';

/** Limits of the controller itself, in one place. The limits of the wire are in `@forkd/api`. */
export const limits = {
  /** Children of one fork request that are started at the same time. */
  forkParallelism: 8,
  /** The cost of a child before it has written a page of its own: the VMM itself and its page tables. */
  vmOverheadBytes: 32 * 1024 * 1024,
  /** Memory that is left to the host, whatever is asked for. */
  hostReserveBytes: 128 * 1024 * 1024,

  /** Minimum for emulated guests, which boot slowly: `boot_wait_secs` cannot shorten it. */
  bootWaitTcgMsMin: 60_000,
  /** The wait for the reason why a guest that boots no longer answers. */
  bootEndNoticeMs: 5_000,
  restoreTimeoutMs: 30_000,
  /** The time in which an engine must report its capabilities. */
  probeTimeoutMs: 30_000,
  /** The time from the start of the VM until the agent has taken on its identity. */
  identifyTimeoutMs: 30_000,
  warmTimeoutMs: 15 * 60_000,
  /** A request to build a template that is longer is not kept in the manifest, which has a bound of its own. */
  buildBytesMax: 512 * 1024,
  /** Lines of the output of a warm-up that are reported, the length of each, and the last lines that an error quotes. */
  outputLinesMax: 1000,
  outputLineCharsMax: 500,
  outputLastLines: 10,
  guestRequestTimeoutMs: 30_000,
  /** The time that the agent may need, beyond that of a command, to end the command and to say so. */
  guestGraceMs: 10_000,
  pingTimeoutMs: 10_000,
  /** Descriptions of ended sandboxes are kept for this time, and at most so many. */
  endedKeptSecs: 3600,
  endedKeptMax: 100,
  /** The part of a console that the description of an ended sandbox has. */
  consoleReadBytes: 16 * 1024,
  consoleTailLines: 15,
  consoleTailBytes: 2048,
  /** The time to kill a command whose caller has left. */
  abandonedKillMs: 10_000,
  /** The time in which a guest that was resumed must set its clock. */
  clockTimeoutMs: 5_000,
  /** How far the pauses of branches may put a guest's clock behind before it is set. */
  clockBehindMsMax: 200,

  /** The time from the request until the snapshot is on disk: 32 GiB at 100 MB/s, and some. */
  branchTimeoutMs: 10 * 60_000,
  /** The wait for a snapshot that is ready to be on disk too. Shorter than the 60 s for which older clients wait for a reply. */
  durableWaitMs: 45_000,
  /** The time in which the pager must answer what it has in memory. */
  pagerRequestTimeoutMs: 30_000,
  /** The time that a request waits for a pager that is being started again. */
  pagerWaitMs: 20_000,
  pagerRestartDelaysMs: [0, 100, 500, 1000, 2000, 5000],

  /** The names and connections that a snapshot keeps of its guest, unpacked. */
  inheritedBytesMax: 1024 * 1024,

  /** Sandboxes taken over at the same time, and the time limit for each: its layers may first be read from disk. */
  adoptParallelism: 16,
  adoptTimeoutMs: 2 * 60_000,

  /** Time limits at the end of the controller: for requests in flight, then for branches in flight. */
  drainMs: 10_000,
  drainSweepMs: 20,
  branchDrainMs: 30_000,
  /** The wait for the reason of a VMM's end. A VMM that is not a child is only checked four times per second. */
  vmEndNoticeMs: 500,
  idleCheckMs: 1_000,
  pruneIntervalMs: 60_000,

  /** Interval of the comments that keep an event stream alive. */
  eventBeatMs: 15_000,

  /** Viewers of terminals: how often each is asked whether it is there, and how long one may neither answer nor read. */
  viewerBeatMs: 20_000,
  viewerSilentMs: 60_000,
  viewerCloseMs: 5_000,
  /** Messages to a viewer in one turn of the event loop. */
  viewerEventsPerTurn: 64,
  /** Input that may wait for a terminal before its viewer is not read any more. */
  viewerTypedBytesMax: 256 * 1024,
  viewerControlsMax: 16,

  /** The longest delay of a timer. */
  expiryTimerMsMax: 2 ** 31 - 1,
  expiryRetrySecs: 5,
  /** Size of a kept reply: a thousand sandboxes with all the labels that they may have, and some more. */
  replyBytesMax: 32 * 1024 * 1024,
  /** Size of all kept replies. The oldest are dropped first. */
  repliesBytesMax: 64 * 1024 * 1024,
  /** The time for which a request with an idempotency key continues, and its result is kept, after its caller has left. */
  retryWaitMs: 15_000,
  /** The bounds of connections to the API. Tests take shorter ones. */
  http: {
    /** Open connections, and as many that wait to be accepted. */
    connectionsMax: 4096,
    /** Header size, including the request line. */
    headerBytesMax: 16 * 1024,
    urlBytesMax: 8 * 1024,
    /** The time from the start of a connection, or the end of its last request, to the end of the TLS handshake or the headers. */
    headersTimeoutMs: 10_000,
    /** The time for a JSON body, from its headers to its end. */
    jsonBodyTimeoutMs: 30_000,
    /** The part of a refused body that is still read, so that its sender reads the reason, and not a broken pipe. */
    discardedBytesMax: 32 * 1024 * 1024,
    /** Large bodies in memory at the same time, from their first byte until the reply is sent. */
    bodiesBytesMax: 256 * 1024 * 1024,
    /** The time for which the other side of a connection may take or send nothing while it is its turn. */
    stallMs: 60_000,
    keepAliveMs: 60_000,
    /** The time from a request for a port of a guest to the headers of the guest's reply. */
    portHeadersTimeoutMs: 300_000,
    /** The interval at which the times above are checked. */
    checkMs: 1_000,
  },
  /** Unknown fields of one request that are reported. */
  fieldWarningsMax: 8,
  /** Items of a list that are written at once. */
  listPart: 500,
  requestIdCharsMax: 128,
  tlsCheckMs: 1_000,

  /** The bound of the lines that wait to be written to the audit log. Further lines are dropped, and counted. */
  auditQueueBytesMax: 8 * 1024 * 1024,
  auditAgentCharsMax: 256,

  /** Costly gauges are measured at most this often, and a scrape waits this long for them. */
  gaugeAgeMs: 1_000,
  gaugeWaitMs: 500,
  gaugeParallelism: 8,
  /** The interval at which the delay of the event loop is measured. */
  loopLookMs: 50,

  /** The time for the program that notifies the service manager. */
  notifyTimeoutMs: 5_000,

  /** A reply that is longer is written in pieces of this length. */
  replyPieceBytes: 64 * 1024,
  /** The time that the caller may take to read such a reply, whose memory other calls wait for. */
  replySendMs: 60_000,
  /** The part of each output stream of a command that an error quotes. */
  errorOutputBytesMax: 256 * 1024,
  /** The memory for what guests answer, over all calls that collect answers at the same time. */
  output: {
    bytesMax: 256 * 1024 * 1024,
    /** Room for the two output streams of one reply. */
    shareBytes: 2 * apiLimits.execOutputBytesMax,
    freeBytes: 128 * 1024,
    waitMs: 20_000,
  },

  recordBytesMax: 1024 * 1024,
  lockWaitMs: 3_000,
} as const;
