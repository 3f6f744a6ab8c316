import type { ErrorBody, ErrorCode } from '@forkd/api';
import { errorRegistry, isErrorCode } from '@forkd/api/constants';

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
  retryAfterMs?: number | undefined;
  body?: ErrorBody | undefined;
  cause?: unknown;
};

/**
 * Any failure of a call, but for an abort, which rejects with the signal's own reason.
 * `code` is stable: one of the API's error codes, or of `ClientErrorCode`. The subclasses are for those who would rather
 * catch by class; they say nothing that `code` does not.
 */
export class ForkdError extends Error {
  override readonly name: string = 'ForkdError';
  readonly code: ErrorCode | ClientErrorCode | (string & {});
  /** Of the HTTP reply; 0 when there was none. */
  readonly status: number;
  /** What to do about it. */
  readonly hint: string | undefined;
  /** By which the controller's log knows the request. */
  readonly requestId: string | undefined;
  /** How long the reply asked to wait before another try. */
  readonly retryAfterMs: number | undefined;
  /** The whole body, since some codes carry more: `dependents`, or the output of a command that timed out. */
  readonly body: ErrorBody | undefined;

  constructor(code: ForkdError['code'], message: string, options: ForkdErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.status = options.status ?? 0;
    this.hint = options.hint;
    this.requestId = options.requestId;
    this.retryAfterMs = options.retryAfterMs;
    this.body = options.body;
  }
}

/** 401: the token is missing or wrong. */
export class AuthenticationError extends ForkdError {
  override readonly name = 'AuthenticationError';
}

/** 404: there is no such sandbox, snapshot, workspace, command or file. `code` says which. */
export class NotFoundError extends ForkdError {
  override readonly name = 'NotFoundError';
}

/** 409: it is there already, it is busy, or its state does not allow it. */
export class ConflictError extends ForkdError {
  override readonly name = 'ConflictError';
}

/** No answer within the request's time (`request_timeout`), or 504: what ran in the guest took too long. */
export class TimeoutError extends ForkdError {
  override readonly name = 'TimeoutError';
}

const classOfStatus: Readonly<Record<number, typeof ForkdError>> = {
  401: AuthenticationError,
  404: NotFoundError,
  409: ConflictError,
  504: TimeoutError,
};

/** The error that a reply of status 400 or more stands for, whoever wrote it: a proxy's HTML has no code and no hint. */
export function errorFromReply(
  status: number,
  text: string,
  reply: Pick<ForkdErrorOptions, 'requestId' | 'retryAfterMs'>,
): ForkdError {
  const body = parseErrorBody(text);
  const Class = classOfStatus[status] ?? ForkdError;
  if (body === undefined) {
    const excerpt = text.trim().slice(0, 200);
    const message = `the server answered HTTP ${status}${excerpt ? `: ${excerpt}` : ''}`;
    return new Class('bad_response', message, { ...reply, status });
  }
  return new Class(body.code, body.error, { ...reply, status, hint: body.hint, body });
}

/** The error that a streamed reply ended with. */
export function errorFromEvent(event: { error: string; code: string; hint?: string | undefined }): ForkdError {
  const status = isErrorCode(event.code) ? errorRegistry[event.code].status : 0;
  const Class = classOfStatus[status] ?? ForkdError;
  return new Class(event.code, event.error, { hint: event.hint });
}

/** True for an error of this SDK, with this code where one is given. */
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
