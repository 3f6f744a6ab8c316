/** What the client and the agent call the ways in which things go wrong. The agent's own codes come through as they are. */
export type GuestErrorCode =
  /** The channel ended: everything that was pending on it fails. Connect again. */
  | 'guest_disconnected'
  /** The deadline of the wait passed. */
  | 'guest_timeout'
  /** The caller's AbortSignal fired. */
  | 'aborted'
  /** The agent answered something that this client does not understand. */
  | 'bad_response'
  | (string & {});

/** Every error that this package throws. */
export class GuestError extends Error {
  override readonly name = 'GuestError';
  readonly code: GuestErrorCode;
  /** The HTTP status of the agent's answer, where it answered. */
  readonly status: number | undefined;

  constructor(code: GuestErrorCode, message: string, options?: { cause?: unknown; status?: number }) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.status = options?.status;
  }
}

export function disconnected(cause?: unknown): GuestError {
  return new GuestError('guest_disconnected', 'the connection to the guest agent ended', { cause });
}
