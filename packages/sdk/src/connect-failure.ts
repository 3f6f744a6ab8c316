import { ForkdError } from './errors.ts';

const NOBODY = 'start one with `forkd-controller serve`, or check FORKD_URL and FORKD_SOCKET';
const NOT_TRUSTED =
  "if the certificate is right, name the file of its authority in NODE_EXTRA_CA_CERTS before the program starts, or add it to the browser's";
const NOT_ITS_NAME = 'use a name that the certificate is for, or have one made for this name';
const EXPIRED = 'have the certificate renewed: the controller reads a new one without being started again';

/** What to do about a connection that never was, by the code that it failed with. */
const HINTS: Readonly<Record<string, string>> = {
  ECONNREFUSED: NOBODY,
  ENOENT: NOBODY,
  ENOTFOUND: NOBODY,
  EACCES: NOBODY,
  EAGAIN: NOBODY,
  UND_ERR_CONNECT_TIMEOUT: NOBODY,
  EHOSTUNREACH: NOBODY,
  DEPTH_ZERO_SELF_SIGNED_CERT: NOT_TRUSTED,
  SELF_SIGNED_CERT_IN_CHAIN: NOT_TRUSTED,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: NOT_TRUSTED,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: NOT_TRUSTED,
  ERR_TLS_CERT_ALTNAME_INVALID: NOT_ITS_NAME,
  CERT_HAS_EXPIRED: EXPIRED,
};

/** The same error where it is no failure to connect. `place` is where a controller was looked for. */
export function explainConnect(error: unknown, code: string | undefined, place: string): unknown {
  const hint = code === undefined ? undefined : HINTS[code];
  if (hint === undefined) return error;
  const what = hint === NOBODY ? 'no controller answers at' : 'there is no trusted connection to';
  return new ForkdError('connection_failed', `${what} ${place} (${code})`, { hint, cause: error });
}
