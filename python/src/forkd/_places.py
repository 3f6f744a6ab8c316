"""Where a controller is: the address that was named, or the data directory of this user."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ._errors import ForkdError

_SOCKET_PATH_BYTES_MAX = 107
"""The size of sun_path, minus its terminating NUL byte."""
_UNIX_PREFIX = "unix:"
_PROGRAM = "forkd-controller"


@dataclass(frozen=True)
class LocalPaths:
    data_dir: Path
    run_dir: Path
    socket: Path
    log: Path


@dataclass(frozen=True)
class Target:
    base: str
    """The beginning of each URL."""
    place: str
    """The address, for messages."""
    socket: str | None = None
    local: LocalPaths | None = None
    """Set if neither the caller nor the environment named a controller."""


def default_data_dir(env: Mapping[str, str] | None = None) -> Path:
    """The data directory of this user: FORKD_DATA_DIR, or the standard directory of the system for such data."""
    env = os.environ if env is None else env
    if named := env.get("FORKD_DATA_DIR"):
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/forkd")
    return Path(env.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "forkd"


def local_paths(data_dir: str | os.PathLike[str] | None = None, socket: str | None = None) -> LocalPaths:
    directory = default_data_dir() if data_dir is None else Path(data_dir).absolute()
    run_dir = directory / "run"
    path = run_dir / "controller.sock" if socket is None else Path(socket).absolute()
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise ForkdError(
            "bad_request",
            f"The socket path {path} is longer than {_SOCKET_PATH_BYTES_MAX} bytes.",
            hint="Choose a shorter data directory with FORKD_DATA_DIR.",
        )
    return LocalPaths(directory, run_dir, path, run_dir / "controller.log")


def resolve_target(url: str | None, socket: str | None, env: Mapping[str, str] | None = None) -> Target:
    env = os.environ if env is None else env
    if socket is not None:
        return _unix_target(socket)
    url = url or env.get("FORKD_URL") or None
    if url is None:
        local = local_paths(socket=env.get("FORKD_SOCKET") or None)
        return Target("http://localhost", f"{_UNIX_PREFIX}{local.socket}", str(local.socket), local)
    return _unix_target(url.removeprefix(_UNIX_PREFIX)) if url.startswith(_UNIX_PREFIX) else _http_target(url)


def controller_program(env: Mapping[str, str] | None = None) -> list[str]:
    """Finds the program of the controller: FORKD_CONTROLLER_BIN, or `forkd-controller` on the PATH."""
    env = os.environ if env is None else env
    named = env.get("FORKD_CONTROLLER_BIN")
    found = str(Path(named).absolute()) if named else shutil.which(_PROGRAM, path=env.get("PATH", ""))
    if found is None or not Path(found).exists():
        raise ForkdError(
            "controller_missing",
            f"No controller program was found{f' at {found}' if found else ''}.",
            hint="Install forkd, or set FORKD_CONTROLLER_BIN.",
        )
    return ["node", found] if re.search(r"\.[cm]?js$", found) else [found]


def cache_key(*options: str | None) -> str:
    """Equal for equal options in an equal environment."""
    variables = [os.environ.get(f"FORKD_{name}") for name in ("URL", "SOCKET", "TOKEN", "DATA_DIR")]
    return json.dumps([*options, *variables])


def _unix_target(path: str) -> Target:
    # `unix:///path` and `unix:/path` are both in use.
    socket = re.sub(r"^//(?=/)", "", path)
    return Target("http://localhost", f"{_UNIX_PREFIX}{socket}", socket)


def _http_target(url: str) -> Target:
    base = url.rstrip("/")
    if not _is_http(base):
        raise ForkdError(
            "bad_request",
            f'"{url}" is not the URL of a controller.',
            hint="Give http://host:port, https://host:port or unix:/path/of/the/socket.",
        )
    return Target(base, base)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
