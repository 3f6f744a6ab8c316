import { ForkdError } from './errors.ts';

const NOBODY = 'Start one with `forkd-controller serve`, or check FORKD_URL and FORKD_SOCKET.';
const TOO_MANY = 'More callers than it lets wait have come at once. Try again in a moment.';
const NOT_ALLOWED =
  'Only the owner of its data directory and root may use the socket. Run as that user, or use the port of the controller: FORKD_URL, with FORKD_TOKEN.';
const NOT_TLS = 'The port speaks plain HTTP. Give its address with http:// in place of https://.';
const NOT_TRUSTED =
  "If the certificate is right, name the file of its authority in NODE_EXTRA_CA_CERTS before the program starts, or add it to the browser's.";
const NOT_ITS_NAME = 'Use a name that the certificate is for, or get a certificate for this name.';
const EXPIRED = 'Renew the certificate. The controller reads a new one without a restart.';

/** Hints for failures to connect, by error code. */
const HINTS: Readonly<Record<string, string>> = {
  ECONNREFUSED: NOBODY,
  ENOENT: NOBODY,
  ENOTFOUND: NOBODY,
  EACCES: NOT_ALLOWED,
  EPERM: NOT_ALLOWED,
  EAGAIN: TOO_MANY,
  UND_ERR_CONNECT_TIMEOUT: NOBODY,
  EHOSTUNREACH: NOBODY,
  // Versions of OpenSSL differ in what they find wrong with HTTP.
  ERR_SSL_WRONG_VERSION_NUMBER: NOT_TLS,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: NOT_TLS,
  DEPTH_ZERO_SELF_SIGNED_CERT: NOT_TRUSTED,
  SELF_SIGNED_CERT_IN_CHAIN: NOT_TRUSTED,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: NOT_TRUSTED,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: NOT_TRUSTED,
  ERR_TLS_CERT_ALTNAME_INVALID: NOT_ITS_NAME,
  CERT_HAS_EXPIRED: EXPIRED,
};

/** The problem, by hint. All other hints are about certificates. */
const PROBLEMS = new Map([
  [NOBODY, 'No controller answers at'],
  [TOO_MANY, 'The controller takes no connection now at'],
  [NOT_ALLOWED, 'This user may not open'],
  [NOT_TLS, 'No TLS is spoken at'],
]);

/** Explains a failure to connect; returns other errors unchanged. `place` is the address that was tried. */
export function explainConnect(error: unknown, code: string | undefined, place: string): unknown {
  // A controller that could not be started has explained itself, whatever its cause.
  const hint = code === undefined || error instanceof ForkdError ? undefined : HINTS[code];
  if (hint === undefined) return error;
  const what = PROBLEMS.get(hint) ?? 'There is no trusted connection to';
  return new ForkdError('connection_failed', `${what} ${place} (${code}).`, { hint, cause: error });
}
