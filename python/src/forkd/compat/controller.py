from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

BranchMode: TypeAlias = Literal["full", "diff", "live"]

_URL_DEFAULT = "http://127.0.0.1:8889"


class ControllerError(RuntimeError):
    """A reply that is not a success: its status, its body (parsed if it is JSON) and the URL of the request."""

    def __init__(self, status: int, body: Any, url: str) -> None:
        super().__init__(f"controller {url}: HTTP {status}: {body}")
        self.status = status
        self.body = body
        self.url = url


class Controller:
    """The client of the earlier package, for code that was written for it. Requests and replies are those of the API.

    Nothing is retried. Calls raise ControllerError for a reply that is not a success, and `urllib.error.URLError` or
    TimeoutError if there is no reply. New code should use `forkd.Sandbox` and `forkd.Snapshot`.
    """

    def __init__(self, base_url: str | None = None, token: str | None = None, timeout: float = 60.0) -> None:
        """`base_url`: default: FORKD_URL, then http://127.0.0.1:8889. `token`: default: FORKD_TOKEN. `timeout`: seconds."""
        self.base_url = (base_url or os.environ.get("FORKD_URL") or _URL_DEFAULT).rstrip("/")
        self.token = os.environ.get("FORKD_TOKEN") if token is None else token
        self.timeout = timeout

    def list_snapshots(self) -> list[dict[str, Any]]:
        return self._ask("GET", "/v1/snapshots")

    def delete_snapshot(self, tag: str) -> None:
        self._ask("DELETE", f"/v1/snapshots/{quote(tag, safe='')}")

    def spawn_sandboxes(
        self,
        snapshot_tag: str,
        n: int = 1,
        per_child_netns: bool = False,
        memory_limit_mib: int | None = None,
        prewarm: bool = False,
        live_fork: bool = False,
        hugepages: bool = False,
    ) -> list[dict[str, Any]]:
        """Starts `n` sandboxes from a snapshot."""
        body: dict[str, Any] = {"snapshot_tag": snapshot_tag, "n": n, "per_child_netns": per_child_netns}
        if memory_limit_mib is not None:
            body["memory_limit_mib"] = memory_limit_mib
        asked = {"prewarm": prewarm, "live_fork": live_fork, "hugepages": hugepages}
        body.update({name: True for name, value in asked.items() if value})
        return self._ask("POST", "/v1/sandboxes", body)

    def list_sandboxes(self) -> list[dict[str, Any]]:
        return self._ask("GET", "/v1/sandboxes")

    def get_sandbox(self, sandbox_id: str) -> dict[str, Any]:
        return self._ask("GET", _path(sandbox_id))

    def kill_sandbox(self, sandbox_id: str) -> None:
        """Ends a sandbox. Raises with status 404 if the sandbox is already gone."""
        self._ask("DELETE", _path(sandbox_id))

    def branch_sandbox(
        self,
        sandbox_id: str,
        tag: str | None = None,
        diff: bool = False,
        measure_diff: bool = False,
        mode: BranchMode | None = None,
        wait: bool = True,
    ) -> dict[str, Any]:
        """Takes a snapshot of a running sandbox. Pass its `tag` to `spawn_sandboxes`."""
        body: dict[str, Any] = {}
        if tag is not None:
            body["tag"] = tag
        if mode is not None:
            body["mode"] = mode
        elif diff:
            body["diff"] = True
        if measure_diff:
            body["measure_diff"] = True
        if not wait:
            body["wait"] = False
        return self._ask("POST", f"{_path(sandbox_id)}/branch", body)

    def exec_command(self, sandbox_id: str, args: Sequence[str], timeout_secs: float = 30) -> dict[str, Any]:
        """Runs a program to its end. `timeout_secs` bounds the program; `timeout` still bounds the request."""
        return self._ask("POST", f"{_path(sandbox_id)}/exec", {"args": list(args), "timeout_secs": timeout_secs})

    def eval_code(self, sandbox_id: str, code: str) -> dict[str, Any]:
        """Evaluates code in the warmed interpreter. An exception is returned in `error`."""
        return self._ask("POST", f"{_path(sandbox_id)}/eval", {"code": code})

    def ping_sandbox(self, sandbox_id: str) -> dict[str, Any]:
        return self._ask("POST", f"{_path(sandbox_id)}/ping")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = self.base_url + path
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"'{self.base_url}' is not an http:// or https:// address. Use forkd.ForkdClient.")
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            data = json.dumps(body).encode()
        request = Request(url, data=data, method=method, headers=headers)  # noqa: S310
        try:
            with urlopen(request, timeout=self.timeout) as reply:  # noqa: S310
                text = reply.read()
        except HTTPError as error:
            raise ControllerError(error.code, _parsed_if_json(error.read()), url) from error
        return json.loads(text) if text else None


def _path(sandbox_id: str) -> str:
    return f"/v1/sandboxes/{quote(sandbox_id, safe='')}"


def _parsed_if_json(text: bytes) -> Any:
    """Parses JSON. Other text, such as a proxy's page, is returned as text; an empty body becomes an empty object."""
    if not text:
        return {}
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")
