import type { ErrorBody } from './schemas/common.ts';

/** Who can mend it: the caller, the host's owner, or we. Only a bug is logged with its stack. */
export type ErrorClass = 'user' | 'system' | 'bug';

type ErrorEntry = { status: number; class: ErrorClass; hint: string };

const user = (status: number, hint: string): ErrorEntry => ({ status, class: 'user', hint });
const system = (status: number, hint: string): ErrorEntry => ({ status, class: 'system', hint });

/** The one registry of error codes: a code never changes its meaning, and is never used for two. */
export const errorRegistry = {
  bad_request: user(400, 'check the fields of the request against the API reference'),
  bad_tag: user(400, 'a tag is 1 to 64 letters, digits, "_" or "-"'),
  unsupported: user(400, 'see `forkd doctor` for what this host and engine can do'),
  bad_path: user(400, 'give the absolute path of what is meant'),
  import_invalid: user(400, 'export it again, or check that the directory was copied whole'),
  not_a_directory: user(400, 'list the directory that it is in'),
  not_a_file: user(400, 'only regular files can be read'),
  too_many_entries: user(400, 'list it in the guest, with exec'),
  is_a_directory: user(400, 'name a file in it'),
  warm_failed: user(400, 'run the warm-up by hand in a sandbox of the unwarmed image to see it fail'),
  unauthorized: user(401, 'set FORKD_TOKEN to the token that the controller was started with'),
  socket_only: user(403, 'call it over the unix socket of the controller'),
  permission_denied: user(403, 'the user that the command or file belongs to may not do this in the guest'),
  read_only: user(403, 'that place in the guest cannot be written to'),
  method_not_allowed: user(405, 'the header `allow` names the methods that the path takes'),
  request_timeout: user(408, 'send the whole request at once, or stream it to a route that takes raw bytes'),
  url_too_long: user(414, 'put what is long into the body'),
  headers_too_large: user(431, 'send fewer or shorter headers'),
  not_found: user(404, 'check the method and the path of the request'),
  not_found_snapshot: user(404, '`forkd images` lists the snapshots'),
  not_found_sandbox: user(404, '`forkd ls` lists the sandboxes that run'),
  not_found_workspace: user(404, '`forkd workspace list` lists the workspaces'),
  not_found_command: user(404, '`forkd attach --list SANDBOX` lists the commands of a sandbox'),
  not_found_file: user(404, 'check the path inside the guest'),
  target_exists: user(409, 'choose a directory that is not there yet'),
  tag_exists: user(409, 'choose another tag, or remove that one with `forkd rmi`'),
  snapshot_in_flight: user(409, 'wait until its status is ready'),
  branch_in_flight: user(409, 'one branch of a sandbox at a time: try again when that one is done'),
  has_dependents: user(409, 'remove them too with --cascade, or only this one with --force'),
  not_forkable: user(409, '`forkd images` says what its status is'),
  sandbox_paused: user(409, 'let it go on with `forkd resume`'),
  name_taken: user(409, 'choose another name, or end the sandbox that has it'),
  workspace_exists: user(409, 'choose another name, or delete that workspace'),
  workspace_busy: user(409, 'wait until what is being done to it is done'),
  workspace_not_running: user(409, 'let it run with `forkd workspace resume`'),
  idempotency_conflict: user(409, 'use a key of its own for each request'),
  command_ended: user(409, 'the command no longer runs; its output can still be read'),
  directory_not_empty: user(409, 'remove what is in it too with recursive'),
  machine_mismatch: user(409, 'restore it where it was made, or build it again here'),
  too_large: user(413, 'send less in one request, or stream it'),
  bad_media_type: user(415, 'send application/json, or application/octet-stream for raw bytes'),
  image_not_found: user(
    404,
    'a source is a recipe, a directory, an OCI layout, a docker-archive or a registry reference',
  ),
  image_invalid: user(400, 'check the image with `skopeo inspect`'),
  kernel_invalid: user(400, 'give a kernel image (vmlinuz or vmlinux) that the controller can read'),
  image_tool_missing: system(500, '`forkd doctor` names the package that brings it'),
  image_fetch_failed: system(502, 'check the network and the name of the image'),
  image_build_failed: system(500, 'the output of the failing tool is in the message'),
  boot_failed: system(500, 'the end of the guest console is in the message'),
  boot_timeout: system(504, 'give it longer with boot_wait_secs, or more memory'),
  branch_cap: system(503, 'wait for a branch to end, or raise --branch-concurrency'),
  branch_failed: system(500, 'the source runs on; try again'),
  command_timeout: user(504, 'give it longer with timeout_secs; what it printed so far is in the reply'),
  guest_unreachable: system(502, 'the guest does not answer: `forkd kill` it, or look at its console'),
  guest_failed: system(502, 'the agent in the guest could not do it; its reason is in the message'),
  engine_missing: system(500, 'install the package qemu-system-x86'),
  engine_failed: system(500, 'what the VMM said is in the message'),
  pager_unavailable: system(503, 'the pager is being started again; running sandboxes go on'),
  corrupt_layer: system(500, 'the stored layer is damaged: remove the snapshot and build or pull it again'),
  disk_full: system(507, 'free space in the data directory, for instance with `forkd rmi`'),
  out_of_memory: system(503, 'end some sandboxes, or ask for fewer children'),
  no_space_in_guest: user(507, 'the writable layer of the sandbox is full'),
  needs_root: system(403, 'run the controller as root, or give it what `forkd doctor` names'),
  shutting_down: system(503, 'the controller is ending; start it again'),
  internal: {
    status: 500,
    class: 'bug',
    hint: 'this is a fault of forkd: please report it with the log of the controller',
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorRegistry;

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(errorRegistry, text);
}

type ApiErrorOptions = {
  /** In place of the registry's own, where more is known. */
  hint?: string | undefined;
  /** Fields of this code that go into the body beside the message: `dependents`, `stdout`. */
  details?: Readonly<Record<string, unknown>>;
  cause?: unknown;
};

/** An error that goes to the caller as it is. `message` is one sentence that names the caller's own tag or id. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly code: ErrorCode;
  readonly status: number;
  readonly class: ErrorClass;
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: ApiErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    const entry = errorRegistry[code];
    this.code = code;
    this.status = entry.status;
    this.class = entry.class;
    this.hint = options.hint ?? entry.hint;
    this.details = options.details ?? {};
  }

  toBody(): ErrorBody {
    return { ...this.details, error: this.message, code: this.code, hint: this.hint };
  }
}
