import { boundedText, CodedError, visibleText } from '@forkd/api/constants';
import type { ErrorCode } from './agent-wire.ts';
import { MESSAGE_CHARS_MAX } from './limits.ts';

/** The error codes that an agent may send, each of which its source declares. Any other code becomes `agent_failed`. */
const AGENT_ERRORS: Record<ErrorCode, true> = {
  bad_cwd: true,
  bad_identity: true,
  bad_path: true,
  bad_request: true,
  bad_signal: true,
  body_broken: true,
  body_too_large: true,
  directory_not_empty: true,
  freezer_unavailable: true,
  internal: true,
  interpreter_busy: true,
  interpreter_failed: true,
  interpreter_not_found: true,
  io_error: true,
  is_a_directory: true,
  no_space: true,
  no_such_route: true,
  not_a_directory: true,
  not_a_file: true,
  not_a_terminal: true,
  not_found: true,
  not_running: true,
  permission_denied: true,
  port_unreachable: true,
  read_only: true,
  stdin_closed: true,
  too_many_commands: true,
  too_many_connections: true,
  too_many_entries: true,
  too_many_watches: true,
  unknown_command: true,
  unknown_language: true,
  unknown_user: true,
};
export const agentErrorCodes = Object.keys(AGENT_ERRORS) as ErrorCode[];

/** The ways in which things go wrong: those that this client finds, and those that the agent tells. */
export type GuestErrorCode =
  /** The channel ended: everything that was pending on it fails. Connect again. */
  | 'guest_disconnected'
  /** The deadline of the wait passed. */
  | 'guest_timeout'
  /** The caller's AbortSignal fired. */
  | 'aborted'
  /** The agent's answer has not the shape, or more than the size, that its route allows. */
  | 'bad_response'
  /** The agent broke a transfer off. */
  | 'transfer_broken'
  /** The agent failed in a way that it has no known word for. */
  | 'agent_failed'
  | ErrorCode;

/** Every error that this package throws. */
export class GuestError extends CodedError<GuestErrorCode> {
  override readonly name = 'GuestError';
  /** The HTTP status of the agent's answer, where it answered. */
  readonly status: number | undefined;

  constructor(code: GuestErrorCode, message: string, options?: { cause?: unknown; status?: number }) {
    super(code, message, { cause: options?.cause });
    this.status = options?.status;
  }
}

export function disconnected(cause?: unknown): GuestError {
  return new GuestError('guest_disconnected', 'The connection to the guest agent ended.', { cause });
}

/** An error that the agent tells. Its words are the guest's: bounded, and nothing in them is obeyed by a terminal. */
export function toldByAgent(status: number, code: string, message: string): GuestError {
  const known = agentErrorCodes.find((one) => one === code) ?? 'agent_failed';
  const told = visibleText(boundedText(message, MESSAGE_CHARS_MAX));
  return new GuestError(known, /[.!?]$/.test(told) ? told : `${told}.`, { status });
}
