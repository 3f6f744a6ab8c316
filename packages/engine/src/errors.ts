import { CodedError } from '@forkd/api/constants';

/** Stable codes of what can go wrong in an engine or in the pager. */
export type EngineErrorCode =
  | 'engine_missing'
  | 'machine_mismatch'
  | 'path_too_long'
  | 'vm_start_failed'
  | 'vm_start_timeout'
  // A VMM's answers over its API.
  | 'vmm_refused'
  | 'vmm_timeout'
  | 'kernel_unusable'
  | 'pager_missing'
  | 'pager_gone'
  | 'pager_protocol'
  | 'disk_server_missing'
  | 'disk_server_gone'
  | 'disk_server_protocol'
  | 'net_missing'
  | 'net_gone'
  | 'net_protocol'
  // The pager's own codes, as they cross its socket.
  | 'bad_request'
  | 'unknown_sandbox'
  | 'unknown_layer'
  | 'corrupt_layer'
  | 'busy'
  | 'vm_gone'
  | 'cancelled'
  | 'disk_full'
  | 'out_of_memory'
  | 'unsupported'
  | 'io'
  | 'audit_failed'
  | 'internal'
  // The network process' own codes.
  | 'unknown_key'
  | 'key_in_use'
  | 'refused'
  | 'timed_out'
  | 'limit';

/** A failure of an engine or of the pager: a stable code, one sentence, and what to do about it where that is known. */
export class EngineError extends CodedError<EngineErrorCode> {
  override readonly name = 'EngineError';
}

/** The hint for a native program that is missing or does not start. */
export const REINSTALL_HINT = 'Install forkd again, or in a checkout run `npm run build`.';
