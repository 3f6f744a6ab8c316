import type { ErrorBody, ErrorCode } from '@forkd/api';
import { errorRegistry, isErrorCode } from '@forkd/api/constants';

/** Codes of errors that arise in the client. The controller has its own codes. */
export type ClientErrorCode =
  | 'connection_failed'
  | 'request_timeout'
  | 'bad_response'
  | 'stream_cut'
  | 'controller_not_running'
  | 'controller_missing'
  | 'controller_failed';

interface ForkdErrorOptions {
  /** The HTTP status of the reply. Default: 0, no reply. */
  status?: number;
  hint?: string | undefined;
  requestId?: string | undefined;
  retryAfterMs?: number | undefined;
  body?: ErrorBody | undefined;
  cause?: unknown;
}

/**
 * Any failure of a call except an abort, which rejects with the signal's reason.
 * `code` is stable: an error code of the API, or a `ClientErrorCode`. The subclasses allow catching by class, and add nothing
 * to `code`.
 */
export class ForkdError extends Error {
  override readonly name: string = 'ForkdError';
  readonly code: ErrorCode | ClientErrorCode | (string & {});
  /** The HTTP status of the reply; 0 if there was no reply. */
  readonly status: number;
  /** Advice: what the user can do about the error. */
  readonly hint: string | undefined;
  /** Identifies the request in the controller's log. */
  readonly requestId: string | undefined;
  /** The wait before a retry that the reply asked for. */
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

/** 404: the sandbox, snapshot, workspace, command or file does not exist. `code` says which. */
export class NotFoundError extends ForkdError {
  override readonly name = 'NotFoundError';
}

/** 409: the resource exists already, is busy, or is in the wrong state. */
export class ConflictError extends ForkdError {
  override readonly name = 'ConflictError';
}

/** No reply within the request's time (`request_timeout`), or 504: the command or evaluation in the guest took too long. */
export class TimeoutError extends ForkdError {
  override readonly name = 'TimeoutError';
}

const classOfStatus: Readonly<Record<number, typeof ForkdError>> = {
  401: AuthenticationError,
  404: NotFoundError,
  409: ConflictError,
  504: TimeoutError,
};

/** Makes an error of a reply with status 400 or more. A proxy may have written the reply: its HTML has no code and no hint. */
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

/** Makes an error of the event that ended a streamed reply. */
export function errorFromEvent(event: { error: string; code: string; hint?: string | undefined }): ForkdError {
  const status = isErrorCode(event.code) ? errorRegistry[event.code].status : 0;
  const Class = classOfStatus[status] ?? ForkdError;
  return new Class(event.code, event.error, { hint: event.hint });
}

/** True for errors of this SDK. If codes are given, only for errors with one of them. */
export function isForkdError(error: unknown, ...codes: ForkdError['code'][]): error is ForkdError {
  return error instanceof ForkdError && (codes.length === 0 || codes.includes(error.code));
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
  // Only a foreign daemon sends an error without a code. Its sentence is still more useful than the raw body.
  const body: ErrorBody = { ...rest, error, code: typeof code === 'string' ? code : 'bad_response' };
  if (typeof hint === 'string') body.hint = hint;
  return body;
}
