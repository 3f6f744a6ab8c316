/** The controller's own limits, in one place. Those of the wire are in `@forkd/api`. */
export const limits = {
  /** Children of one fork request that are started side by side. */
  forkParallelism: 8,
  /** What a child costs the host before it has written a page of its own: the VMM itself and its page tables. */
  vmOverheadBytes: 32 * 1024 * 1024,
  /** Left to the host whatever is asked for. */
  hostReserveBytes: 128 * 1024 * 1024,

  /** Emulated guests boot slowly: `boot_wait_secs` cannot make it shorter there. */
  bootWaitTcgMsMin: 60_000,
  restoreTimeoutMs: 30_000,
  /** For an engine to say what it can do. */
  probeTimeoutMs: 30_000,
  /** From the VM running to the agent having answered and taken on its identity. */
  identifyTimeoutMs: 30_000,
  warmTimeoutMs: 15 * 60_000,
  guestRequestTimeoutMs: 30_000,
  /** What the agent may need beyond a command's own time to end it and to say so. */
  guestGraceMs: 10_000,
  pingTimeoutMs: 10_000,

  /** From the request to being on disk: 32 GiB at 100 MB/s, and some. */
  branchTimeoutMs: 10 * 60_000,
  /** For what the pager answers out of its memory. */
  pagerRequestTimeoutMs: 30_000,
  /** How long a request waits for a pager that is being started again. */
  pagerWaitMs: 20_000,
  pagerRestartDelaysMs: [0, 100, 500, 1000, 2000, 5000],

  /** At the end: requests in flight, then branches in flight, get this long. */
  drainMs: 10_000,
  drainSweepMs: 20,
  branchDrainMs: 30_000,
  /** A process that is not the controller's child is looked for four times a second. */
  vmEndNoticeMs: 500,
  idleCheckMs: 1_000,
  pruneIntervalMs: 60_000,

  /** Between two signs of life to who reads events. */
  eventBeatMs: 15_000,

  /** The longest that a timer can wait. */
  expiryTimerMsMax: 2 ** 31 - 1,
  expiryRetrySecs: 5,
  /** A kept reply: a thousand sandboxes, and some. */
  replyBytesMax: 8 * 1024 * 1024,
  /** Of connections to the API. Tests take shorter ones. */
  http: {
    connectionsMax: 4096,
    /** The request line counts. */
    headerBytesMax: 16 * 1024,
    urlBytesMax: 8 * 1024,
    /** From a connection's beginning, or the end of its last request, to the end of the TLS handshake or of the headers. */
    headersTimeoutMs: 10_000,
    /** For a JSON body, from its headers to its end. */
    jsonBodyTimeoutMs: 30_000,
    /** How long the other side of a connection may take or give nothing while it is its turn. */
    stallMs: 60_000,
    keepAliveMs: 60_000,
    /** How often the times above are looked at. */
    checkMs: 1_000,
  },
  requestIdCharsMax: 128,
  tlsCheckMs: 1_000,

  /** Of what waits to be written to the audit log; what is more is dropped, and counted. */
  auditQueueBytesMax: 8 * 1024 * 1024,
  auditAgentCharsMax: 256,

  /** Numbers that cost something to find out are found out at most this often, and a scrape waits this long for them. */
  gaugeAgeMs: 1_000,
  gaugeWaitMs: 500,
  gaugeParallelism: 8,

  /** For the program that speaks to the service manager. */
  notifyTimeoutMs: 5_000,

  recordBytesMax: 1024 * 1024,
  lockWaitMs: 3_000,
} as const;
