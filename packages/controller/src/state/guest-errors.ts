import { type ErrorCode, ApiError } from '@forkd/api';
import { GuestError, type GuestErrorCode } from '@forkd/guest';
import { toApiError } from '../errors.ts';

/** The code that a caller sees for each failure of a guest. It has no others, so it cannot answer as the controller. */
const codes: Record<GuestErrorCode, ErrorCode> = {
  guest_disconnected: 'guest_unreachable',
  guest_timeout: 'guest_unreachable',
  aborted: 'guest_unreachable',
  bad_response: 'guest_failed',
  transfer_broken: 'guest_failed',
  agent_failed: 'guest_failed',
  bad_cwd: 'bad_path',
  bad_identity: 'guest_failed',
  bad_path: 'bad_path',
  bad_request: 'bad_request',
  bad_signal: 'bad_request',
  body_broken: 'guest_failed',
  body_too_large: 'too_large',
  directory_not_empty: 'directory_not_empty',
  freezer_unavailable: 'unsupported',
  internal: 'guest_failed',
  interpreter_busy: 'busy',
  interpreter_failed: 'guest_failed',
  interpreter_not_found: 'unsupported',
  io_error: 'guest_failed',
  is_a_directory: 'is_a_directory',
  no_space: 'no_space_in_guest',
  no_such_route: 'unsupported',
  not_a_directory: 'not_a_directory',
  not_a_file: 'not_a_file',
  not_a_terminal: 'not_a_terminal',
  not_found: 'not_found_file',
  not_running: 'command_ended',
  permission_denied: 'permission_denied',
  port_unreachable: 'port_unreachable',
  read_only: 'read_only',
  stdin_closed: 'command_ended',
  too_many_commands: 'too_many_commands',
  too_many_connections: 'busy',
  too_many_entries: 'too_many_entries',
  too_many_watches: 'too_many_watches',
  unknown_command: 'not_found_command',
  unknown_language: 'unsupported',
  unknown_user: 'bad_request',
};

/** An error of a guest, with the sandbox in its sentence. */
export function guestFailure(sandboxId: string, error: unknown): ApiError {
  if (!(error instanceof GuestError)) return toApiError(error);
  if (error.code === 'no_such_route') {
    const sentence = `Sandbox ${sandboxId}: not supported by the agent of its template: ${error.message}`;
    const hint = 'Build the template again: its agent is of an earlier version.';
    return new ApiError('unsupported', sentence, { cause: error, hint });
  }
  return new ApiError(codes[error.code], `Sandbox ${sandboxId}: ${error.message}`, { cause: error });
}
