import type { ErrorCode } from '@forkd/api';
import { ApiError, isErrorCode } from '@forkd/api';
import { GuestError } from '@forkd/guest';

import { toApiError } from '../errors.ts';

/** The codes of the agent and of its client that the wire has other words for. What neither knows is `guest_failed`. */
const codes: Record<string, ErrorCode> = {
  guest_disconnected: 'guest_unreachable',
  guest_timeout: 'guest_unreachable',
  not_found: 'not_found_file',
  unknown_command: 'not_found_command',
  not_running: 'command_ended',
  stdin_closed: 'command_ended',
  no_space: 'no_space_in_guest',
  bad_cwd: 'bad_path',
  bad_signal: 'bad_request',
  unknown_user: 'bad_request',
  body_too_large: 'too_large',
  unknown_language: 'unsupported',
  interpreter_not_found: 'unsupported',
};

/** An error of a guest, with the sandbox in its sentence. */
export function guestFailure(sandboxId: string, error: unknown): ApiError {
  if (!(error instanceof GuestError)) return toApiError(error);
  const known = isErrorCode(error.code) ? error.code : 'guest_failed';
  const code = Object.hasOwn(codes, error.code) ? codes[error.code] : known;
  return new ApiError(code ?? 'guest_failed', `Sandbox ${sandboxId}: ${error.message}`, { cause: error });
}
