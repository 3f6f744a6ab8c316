import type { ErrorBody, ErrorCode } from '@forkd/api';

/** What goes wrong on this side of the wire, beside the controller's own codes. */
export type ClientErrorCode =
  | 'connection_failed'
  | 'request_timeout'
  | 'bad_response'
  | 'stream_cut'
  | 'controller_not_running'
  | 'controller_missing'
  | 'controller_failed';

type ForkdErrorOptions = {
  /** Of the reply; 0 when there was none. */
  status?: number;
  hint?: string | undefined;
  requestId?: string | undefined;
  body?: ErrorBody | undefined;
  cause?: unknown;
};

/**
 * Any failure of a call, but for an abort, which rejects with the signal's own reason.
 * `code` is stable: one of the API's error codes, or of `ClientErrorCode`.
 */
export class ForkdError extends Error {
  override readonly name = 'ForkdError';
  readonly code: ErrorCode | ClientErrorCode | (string & {});
  readonly status: number;
  readonly hint: string | undefined;
  readonly requestId: string | undefined;
  /** The whole body, since some codes carry more: `dependents`, or the output of a command that timed out. */
  readonly body: ErrorBody | undefined;

  constructor(code: ForkdError['code'], message: string, options: ForkdErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.status = options.status ?? 0;
    this.hint = options.hint;
    this.requestId = options.requestId;
    this.body = options.body;
  }
}

/** The error that a reply of status 400 or more stands for, whoever wrote it: a proxy's HTML has no code and no hint. */
export function errorFromReply(status: number, text: string, requestId: string | undefined): ForkdError {
  const body = parseErrorBody(text);
  if (body === undefined) {
    const excerpt = text.trim().slice(0, 200);
    return new ForkdError('bad_response', `the server answered HTTP ${status}${excerpt ? `: ${excerpt}` : ''}`, {
      status,
      requestId,
    });
  }
  return new ForkdError(body.code, body.error, { status, hint: body.hint, requestId, body });
}

/** The error that a streamed reply ended with. */
export function errorFromEvent(event: { error: string; code: string; hint?: string | undefined }): ForkdError {
  return new ForkdError(event.code, event.error, { hint: event.hint });
}

/** True for an error that the controller itself gave, with this code. */
export function isForkdError(error: unknown, code?: ForkdError['code']): error is ForkdError {
  return error instanceof ForkdError && (code === undefined || error.code === code);
}

function parseErrorBody(text: string): ErrorBody | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof parsed !== 'object' || parsed === null || !('error' in parsed)) return undefined;
  const { error, code, hint, ...rest } = parsed as Record<string, unknown>;
  if (typeof error !== 'string') return undefined;
  // A daemon that gives no code is not ours; its sentence is still worth more than its body.
  const body: ErrorBody = { ...rest, error, code: typeof code === 'string' ? code : 'bad_response' };
  if (typeof hint === 'string') body.hint = hint;
  return body;
}
