import { boundedText, CodedError, visibleText } from '@forkd/api/constants';
import { messageCharsMax } from './limits.ts';

/** Error codes that an agent may send. Any other code becomes `agent_failed`. */
export const agentErrorCodes = [
  'bad_cwd',
  'bad_identity',
  'bad_path',
  'bad_request',
  'bad_signal',
  'body_broken',
  'body_too_large',
  'directory_not_empty',
  'freezer_unavailable',
  'internal',
  'interpreter_busy',
  'interpreter_failed',
  'interpreter_not_found',
  'io_error',
  'is_a_directory',
  'no_space',
  'no_such_route',
  'not_a_directory',
  'not_a_file',
  'not_found',
  'not_running',
  'permission_denied',
  'read_only',
  'stdin_closed',
  'too_many_commands',
  'too_many_entries',
  'unknown_command',
  'unknown_language',
  'unknown_user',
] as const;
export type AgentErrorCode = (typeof agentErrorCodes)[number];

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
  | AgentErrorCode;

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
  const told = visibleText(boundedText(message, messageCharsMax));
  return new GuestError(known, /[.!?]$/.test(told) ? told : `${told}.`, { status });
}
