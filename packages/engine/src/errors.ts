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
  | 'internal';

/** A failure of an engine or of the pager: a stable code, one sentence, and what to do about it where that is known. */
export class EngineError extends Error {
  override readonly name = 'EngineError';
  readonly code: EngineErrorCode;
  readonly hint: string | undefined;

  constructor(code: EngineErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
  }
}
