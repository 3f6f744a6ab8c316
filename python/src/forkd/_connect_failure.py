from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping

from ._errors import ForkdError

_NOBODY = "Start one with `forkd-controller serve`, or check FORKD_URL and FORKD_SOCKET."
_TOO_MANY = "More callers than it lets wait have come at once. Try again in a moment."
_NOT_ALLOWED = (
    "Only the owner of its data directory and root may use the socket. Run as that user, or use the port of the "
    "controller: FORKD_URL, with FORKD_TOKEN."
)
_NOT_TLS = "The port speaks plain HTTP. Give its address with http:// in place of https://."
_NOT_TRUSTED = "If the certificate is right, name the file of its authority in SSL_CERT_FILE."
_NOT_ITS_NAME = "Use a name that the certificate is for, or get a certificate for this name."
_EXPIRED = "Renew the certificate. The controller reads a new one without a restart."

_HINTS: Mapping[str, str] = {
    "ECONNREFUSED": _NOBODY,
    "ENOENT": _NOBODY,
    "ENOTFOUND": _NOBODY,
    "ETIMEDOUT": _NOBODY,
    "EHOSTUNREACH": _NOBODY,
    "EACCES": _NOT_ALLOWED,
    "EPERM": _NOT_ALLOWED,
    "EAGAIN": _TOO_MANY,
    "ENOTCONN": _TOO_MANY,
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
    "HOSTNAME_MISMATCH": _NOT_ITS_NAME,
    "CERTIFICATE_EXPIRED": _EXPIRED,
    "CERTIFICATE_VERIFY_FAILED": _NOT_TRUSTED,
}
"""Hints for failures to connect, by error code."""

_PROBLEMS: Mapping[str, str] = {
    _NOBODY: "No controller answers at",
    _TOO_MANY: "The controller takes no connection now at",
    _NOT_ALLOWED: "This user may not open",
    _NOT_TLS: "No TLS is spoken at",
}
"""The problem, by hint. All other hints are about certificates."""

# From OpenSSL's list of verification errors.
_X509_EXPIRED = 10
_X509_NOT_ITS_NAME = frozenset({62, 64})


def connect_error_code(error: BaseException) -> str | None:
    """Names why a connection failed: a code of `errno`, of OpenSSL, or ENOTFOUND for a host without an address."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code == _X509_EXPIRED:
                return "CERTIFICATE_EXPIRED"
            return "HOSTNAME_MISMATCH" if cause.verify_code in _X509_NOT_ITS_NAME else "CERTIFICATE_VERIFY_FAILED"
        if isinstance(cause, ssl.SSLError):
            return cause.reason
        if isinstance(cause, socket.gaierror):
            return "ENOTFOUND"
        if isinstance(cause, OSError) and cause.errno is not None:
            return errno.errorcode.get(cause.errno)
    return None


def connect_failure(code: str | None, error: BaseException, place: str) -> ForkdError:
    """Explains a failure to connect to the address `place`."""
    hint = _HINTS.get(code or "", _NOBODY)
    problem = _PROBLEMS.get(hint, "There is no trusted connection to")
    return ForkdError("connection_failed", f"{problem} {place} ({code or error}).", hint=hint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those behind it, outermost first. Attempts at several addresses are a group."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        cause = left.pop(0)
        if cause is None or any(cause is other for other in seen):
            continue
        seen.append(cause)
        yield cause
        left += [*getattr(cause, "exceptions", ()), cause.__cause__, cause.__context__]
