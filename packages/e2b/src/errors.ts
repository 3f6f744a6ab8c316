import { ApiError } from '@forkd/api';

/** The codes of Connect errors, with their HTTP status. */
const connectStatus = {
  canceled: 499,
  invalid_argument: 400,
  failed_precondition: 400,
  unauthenticated: 401,
  permission_denied: 403,
  not_found: 404,
  already_exists: 409,
  resource_exhausted: 429,
  data_loss: 500,
  internal: 500,
  unimplemented: 501,
  unavailable: 503,
  deadline_exceeded: 504,
} as const;
export type ConnectCode = keyof typeof connectStatus;

/** An error of the services in the guest, which speak the Connect protocol. */
export class ConnectError extends Error {
  override readonly name = 'ConnectError';
  readonly code: ConnectCode;

  constructor(code: ConnectCode, message: string) {
    super(message);
    this.code = code;
  }

  get status(): number {
    return connectStatus[this.code];
  }

  toBody(): { code: ConnectCode; message: string } {
    return { code: this.code, message: this.message };
  }
}

/** An error of the HTTP routes. */
export class E2bError extends Error {
  override readonly name = 'E2bError';
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }

  toBody(): object {
    return { code: this.status, message: this.message };
  }
}

/** The SDKs tell from this reply, of any route of the guest, that the sandbox is gone. */
export class SandboxGoneError extends E2bError {
  readonly #sandboxId: string;

  constructor(sandboxId: string) {
    super(502, 'The sandbox was not found.');
    this.#sandboxId = sandboxId;
  }

  override toBody(): object {
    return { sandboxId: this.#sandboxId, ...super.toBody() };
  }
}

/** The feature is part of E2B's wire and not of forkd's. */
export function notSupported(what: string): E2bError {
  return new E2bError(501, `${what} is not supported by forkd.`);
}

/** True if the error says that no sandbox answers to the id: it ended, never existed, or is paused. */
export function isGone(error: unknown): boolean {
  return (
    error instanceof ApiError &&
    (error.code === 'not_found_sandbox' || error.code === 'sandbox_ended' || error.code === 'sandbox_paused')
  );
}

export function toE2bError(error: ApiError): E2bError {
  return new E2bError(error.status, `${error.message} ${error.hint}`);
}

export function toConnectError(error: ApiError): ConnectError {
  return new ConnectError(connectCodeOf(error), error.message);
}

function connectCodeOf({ code, status }: ApiError): ConnectCode {
  switch (code) {
    // The SDKs read from this code that there was nothing to signal.
    case 'command_ended':
      return 'not_found';
    case 'directory_not_empty':
    case 'unsupported':
      return 'failed_precondition';
    case 'busy':
    case 'output_budget':
    case 'too_large':
    case 'too_many_entries':
    case 'too_many_watches':
    case 'no_space_in_guest':
      return 'resource_exhausted';
    case 'guest_unreachable':
    case 'shutting_down':
      return 'unavailable';
    default:
      return connectCodeOfStatus(status);
  }
}

function connectCodeOfStatus(status: number): ConnectCode {
  switch (status) {
    case 401:
      return 'unauthenticated';
    case 403:
      return 'permission_denied';
    case 404:
      return 'not_found';
    case 409:
      return 'failed_precondition';
    default:
      return status < 500 ? 'invalid_argument' : 'internal';
  }
}
