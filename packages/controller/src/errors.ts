import { type ErrorCode, ApiError, CodedError } from '@forkd/api';
import { messageOf } from '@forkd/api/constants';
import { type EngineErrorCode, EngineError } from '@forkd/engine';
import { type ImageErrorCode, ImageError } from '@forkd/images';
import { type StoreErrorCode, StoreError } from '@forkd/store';

export { messageOf };

const ofEngine: Record<EngineErrorCode, ErrorCode> = {
  engine_missing: 'engine_missing',
  machine_mismatch: 'machine_mismatch',
  path_too_long: 'engine_failed',
  vm_start_failed: 'engine_failed',
  vm_start_timeout: 'engine_failed',
  vmm_refused: 'engine_failed',
  vmm_timeout: 'engine_failed',
  kernel_unusable: 'kernel_invalid',
  pager_missing: 'engine_missing',
  pager_gone: 'pager_unavailable',
  pager_protocol: 'pager_unavailable',
  disk_server_missing: 'engine_missing',
  disk_server_gone: 'disk_server_unavailable',
  disk_server_protocol: 'disk_server_unavailable',
  net_missing: 'engine_missing',
  net_gone: 'network_unavailable',
  net_protocol: 'network_unavailable',
  unknown_key: 'network_unavailable',
  key_in_use: 'internal',
  refused: 'port_unreachable',
  timed_out: 'port_unreachable',
  limit: 'busy',
  bad_request: 'internal',
  unknown_sandbox: 'engine_failed',
  unknown_layer: 'corrupt_layer',
  corrupt_layer: 'corrupt_layer',
  busy: 'branch_in_flight',
  vm_gone: 'engine_failed',
  cancelled: 'shutting_down',
  disk_full: 'disk_full',
  out_of_memory: 'out_of_memory',
  unsupported: 'unsupported',
  io: 'engine_failed',
  audit_failed: 'engine_failed',
  internal: 'internal',
};

const ofStore: Record<StoreErrorCode, ErrorCode> = {
  unknown_snapshot: 'not_found_snapshot',
  snapshot_exists: 'tag_exists',
  unknown_blob: 'corrupt_layer',
  corrupt_blob: 'corrupt_layer',
  corrupt_manifest: 'corrupt_layer',
  corrupt_index: 'corrupt_layer',
  unsupported_format: 'not_forkable',
  outside_root: 'internal',
  disk_full: 'disk_full',
  io: 'internal',
};

const ofImages: Record<ImageErrorCode, ErrorCode> = {
  bad_addition: 'bad_request',
  bad_agent: 'engine_missing',
  bad_image: 'image_invalid',
  bad_kernel: 'kernel_invalid',
  disk_full: 'disk_full',
  image_unavailable: 'image_fetch_failed',
  kernel_unavailable: 'image_fetch_failed',
  missing_program: 'image_tool_missing',
  needs_root: 'needs_root',
  not_a_rootfs: 'image_invalid',
  package_unavailable: 'image_fetch_failed',
  program_failed: 'image_build_failed',
  source_not_found: 'image_not_found',
  unknown_recipe: 'image_not_found',
};

/** The error as a caller sees it. An error that no code stands for is `internal`: a fault of forkd. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const code = codeOf(error);
  if (code === null) {
    return new ApiError('internal', `Something went wrong inside the controller: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const hint = error instanceof CodedError ? error.hint : undefined;
  return new ApiError(code, messageOf(error), { hint, cause: error });
}

/** The same error, with `context` before its sentence. */
export function withContext(context: string, error: unknown): ApiError {
  const { code, message, hint, details } = toApiError(error);
  return new ApiError(code, `${context}: ${message}`, { hint, details, cause: error });
}

/** True for an error of a file operation on a full file system. */
function isNoSpace(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  return code === 'ENOSPC' || code === 'EDQUOT';
}

function codeOf(error: unknown): ErrorCode | null {
  if (error instanceof EngineError) return ofEngine[error.code];
  if (error instanceof StoreError) return ofStore[error.code];
  if (error instanceof ImageError) return ofImages[error.code];
  if (isNoSpace(error)) return 'disk_full';
  return null;
}
