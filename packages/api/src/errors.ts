import { CodedError, type CodedErrorOptions } from './coded-error.ts';
import { limits } from './limits.ts';
import type { ErrorBody } from './schemas/common.ts';
import { boundedText, visibleText } from './visible.ts';

/** The caller fixes a `user` error, the owner of the host a `system` error, and forkd a `bug`. Only a bug is logged with its stack. */
export type ErrorClass = 'user' | 'system' | 'bug';

interface ErrorEntry {
  status: number;
  class: ErrorClass;
  hint: string;
}

const user = (status: number, hint: string): ErrorEntry => ({ status, class: 'user', hint });
const system = (status: number, hint: string): ErrorEntry => ({ status, class: 'system', hint });

/** The registry of error codes. A code never changes its meaning, and never has two. */
export const errorRegistry = {
  bad_request: user(400, 'Check the fields of the request against the API reference.'),
  bad_tag: user(400, 'A tag is 1 to 64 letters, digits, "_" or "-".'),
  unsupported: user(400, '`forkd doctor` shows what this host and engine can do.'),
  bad_path: user(400, 'Give an absolute path.'),
  import_invalid: user(400, 'Export the snapshot again, or check that the directory was copied completely.'),
  not_a_directory: user(400, 'List the directory that contains the file.'),
  not_a_file: user(400, 'Only regular files can be read and written.'),
  too_many_entries: user(400, 'List the directory inside the guest, with exec.'),
  too_many_watches: user(400, 'Watch a smaller directory, or end other watches of the guest.'),
  not_a_terminal: user(400, 'Start the command with a terminal, as `forkd exec -it` does.'),
  is_a_directory: user(400, 'Name a file in the directory.'),
  too_many_commands: user(400, 'End commands that are not needed: `forkd attach --list SANDBOX` lists them.'),
  too_many_viewers: user(400, 'Close other connections to terminals of the sandbox.'),
  warm_failed: user(400, 'Run the warm-up by hand in a sandbox of the unwarmed image to see it fail.'),
  unauthorized: user(401, 'Set FORKD_TOKEN to a token of the controller.'),
  host_not_allowed: user(403, 'Use an address of the host, or start the controller with --allow-host and that name.'),
  origin_not_allowed: user(403, 'Call the API from a program. Web pages of other sites are refused.'),
  socket_only: user(403, 'Call the controller over its unix socket.'),
  permission_denied: user(403, 'The user of the command or file lacks the permission in the guest.'),
  read_only: user(403, 'The path is on a read-only file system of the guest.'),
  method_not_allowed: user(405, 'The header `allow` lists the methods of the path.'),
  request_timeout: user(408, 'Send the whole request at once, or use a route that takes a raw body.'),
  url_too_long: user(414, 'Move long values into the body.'),
  headers_too_large: user(431, 'Send fewer or shorter headers.'),
  not_found: user(404, 'Check the method and the path of the request.'),
  not_found_snapshot: user(404, '`forkd images` lists the snapshots.'),
  not_found_sandbox: user(404, '`forkd ls` lists the running sandboxes.'),
  sandbox_ended: user(404, '`forkd ls -a` lists the sandboxes that ended in the last hour.'),
  not_found_workspace: user(404, '`forkd workspace list` lists the workspaces.'),
  not_found_command: user(404, '`forkd attach --list SANDBOX` lists the commands of a sandbox.'),
  not_found_file: user(404, 'Check the path inside the guest.'),
  target_exists: user(409, 'Choose a directory that does not exist.'),
  tag_exists: user(409, 'Choose another tag, or remove the snapshot with `forkd rmi`.'),
  snapshot_in_flight: user(409, 'Wait until the status of the snapshot is ready.'),
  branch_in_flight: user(409, 'A sandbox can have one branch at a time. Try again when the branch is done.'),
  has_dependents: user(409, 'Remove the dependents too with --cascade, or only this snapshot with --force.'),
  not_forkable: user(409, '`forkd images` shows the status of the snapshot.'),
  sandbox_paused: user(409, 'Resume the sandbox with `forkd resume`.'),
  name_taken: user(409, 'Choose another name, or end the sandbox that has it.'),
  workspace_exists: user(409, 'Choose another name, or delete the workspace.'),
  workspace_busy: user(409, 'Wait until the other operation on the workspace is done.'),
  workspace_not_running: user(409, 'Resume the workspace with `forkd workspace resume`.'),
  idempotency_conflict: user(409, 'Use a new key for each request.'),
  command_ended: user(409, 'The command has ended. Its output can still be read.'),
  directory_not_empty: user(409, 'Use recursive to remove the contents, too.'),
  machine_mismatch: user(409, 'Restore the snapshot on the host where it was made, or build it again here.'),
  too_large: user(413, 'Send less in one request, or stream it.'),
  bad_media_type: user(415, 'Send application/json, or application/octet-stream for raw bytes.'),
  image_not_found: user(
    404,
    'A source is a recipe, a directory, an OCI layout, a docker-archive or a registry reference.',
  ),
  image_invalid: user(400, 'Check the image with `skopeo inspect`.'),
  kernel_invalid: user(400, 'Give a kernel image (vmlinuz or vmlinux) that the controller can read.'),
  image_tool_missing: system(500, '`forkd doctor` names the package that provides the tool.'),
  image_fetch_failed: system(502, 'Check the network and the name of the image.'),
  image_build_failed: system(500, 'The message contains the output of the tool that failed.'),
  boot_failed: system(500, 'Give the guest more memory, and check its kernel and its root.'),
  boot_timeout: system(504, 'Raise boot_wait_secs, or give the guest more memory.'),
  output_budget: system(503, 'Stream the output with `POST /v1/sandboxes/:id/commands`, or try again.'),
  branch_cap: system(503, 'Wait for a branch to end, or raise --branch-concurrency.'),
  branch_failed: system(500, 'The sandbox keeps running. Try again.'),
  command_timeout: user(504, 'Raise timeout_secs. The reply contains the output so far.'),
  busy: system(503, 'Try again in a moment.'),
  guest_unreachable: system(502, 'The guest does not answer. Look at its console, or end it with `forkd kill`.'),
  guest_failed: system(502, 'The message contains the reason that the agent in the guest gave.'),
  engine_missing: system(500, 'Install the package qemu-system-x86.'),
  engine_failed: system(500, 'The message contains what the VMM printed.'),
  network_unavailable: system(503, 'The network process is being restarted. Running sandboxes continue.'),
  port_unreachable: user(502, 'Check that a program in the guest listens on the port.'),
  disk_server_unavailable: system(
    503,
    'The disk server is being restarted. Sandboxes that use their disk wait for it.',
  ),
  pager_unavailable: system(503, 'The pager is being restarted. Running sandboxes continue.'),
  corrupt_layer: system(500, 'The stored layer is damaged. Remove the snapshot, and build or pull it again.'),
  disk_full: system(507, 'Free space in the data directory, for instance with `forkd rmi`.'),
  out_of_memory: system(503, 'End some sandboxes, or start fewer.'),
  no_space_in_guest: user(507, 'The writable layer of the sandbox is full.'),
  needs_root: system(403, 'Run the controller as root, or grant it what `forkd doctor` names.'),
  shutting_down: system(503, 'The controller is shutting down. Start it again.'),
  internal: {
    status: 500,
    class: 'bug',
    hint: 'This is a bug in forkd. Please report it with the log of the controller.',
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorRegistry;

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(errorRegistry, text);
}

/** Bounds the message and escapes control characters: it may quote a guest, a VMM or a caller, and a terminal may show it. */
function sentenceOf(message: string): string {
  return visibleText(boundedText(message, limits.errorCharsMax).replaceAll('\r\n', '\n'));
}

interface ApiErrorOptions extends CodedErrorOptions {
  /** Additional fields of the body, such as `dependents` or `stdout`. */
  details?: Readonly<Record<string, unknown>>;
}

/** An error that is sent to the caller. `message` is one sentence that names the tag or id of the request. */
export class ApiError extends CodedError<ErrorCode> {
  override readonly name = 'ApiError';
  readonly status: number;
  readonly class: ErrorClass;
  declare readonly hint: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: ApiErrorOptions = {}) {
    const entry = errorRegistry[code];
    super(code, sentenceOf(message), { hint: options.hint ?? entry.hint, cause: options.cause });
    this.status = entry.status;
    this.class = entry.class;
    this.details = options.details ?? {};
  }

  toBody(): ErrorBody {
    return { ...this.details, error: this.message, code: this.code, hint: this.hint };
  }
}
