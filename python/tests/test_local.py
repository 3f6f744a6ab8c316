"""Proves that a local controller is found, started, and told apart from one that cannot start.

The controller here is a small program that binds the socket, or loses the race for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd import AsyncForkdClient, ForkdClient, ForkdError
from forkd.local import ensure_controller, ensure_controller_async, local_paths

PROGRAM = f"""#!{sys.executable}
import http.server, os, socketserver, sys

place = dict(zip(sys.argv[2::2], sys.argv[3::2]))
with open(place["--data-dir"] + "/starts", "a") as starts:
    starts.write(f"{{os.getpid()}} {{' '.join(sys.argv[1:])}}\\n")


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "11")
        self.end_headers()
        self.wfile.write(b'{{"ok":true}}')

    def address_string(self):
        return "unix"


socketserver.UnixStreamServer(place["--socket"], Answer).serve_forever()
"""


@pytest.fixture
def data_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # The socket is within the length that the kernel allows.
    directory = tmp_path_factory.mktemp("d")
    use_program(directory, PROGRAM, monkeypatch)
    for name in ("FORKD_URL", "FORKD_SOCKET", "FORKD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORKD_DATA_DIR", str(directory))
    yield directory
    for pid, _ in starts(directory):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def use_program(directory: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = directory / "controller"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("FORKD_CONTROLLER_BIN", str(program))


def starts(directory: Path) -> list[tuple[int, str]]:
    file = directory / "starts"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(line.split()[0]), line) for line in lines]


def test_a_client_that_names_no_controller_starts_the_one_of_the_data_directory(data_dir: Path) -> None:
    with ForkdClient() as client:
        assert client.health() == {"ok": True}
        assert client.place == f"unix:{data_dir}/run/controller.sock"
    assert asyncio.run(health_async()) == {"ok": True}
    [(_, line)] = starts(data_dir)
    wanted = f"serve --data-dir {data_dir} --socket {data_dir}/run/controller.sock --no-tcp --idle-exit-secs 300"
    assert line.endswith(wanted)


def test_a_controller_is_running_before_a_body_that_can_be_sent_only_once(data_dir: Path) -> None:
    with ForkdClient() as client, pytest.raises(ForkdError, match="HTTP 501"):
        client.write_file("sb-1", "/tmp/x", iter([b"once"]))
    assert len(starts(data_dir)) == 1


async def health_async() -> object:
    async with AsyncForkdClient() as client:
        return await client.health()


def test_a_controller_is_started_once_and_found_again(data_dir: Path) -> None:
    first = ensure_controller()
    second = asyncio.run(ensure_controller_async())
    assert (first.started, second.started, len(starts(data_dir))) == (True, False, 1)
    assert first.client.health() == {"ok": True}


def test_all_of_several_that_start_at_once_find_the_winner(data_dir: Path) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_controller().client.health())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"ok": True}] * 4


def test_none_is_started_unless_it_may(data_dir: Path) -> None:
    with pytest.raises(ForkdError, match="No controller runs on") as caught:
        ensure_controller(autostart=False)
    assert (caught.value.code, starts(data_dir)) == ("controller_not_running", [])


def test_a_named_controller_is_not_started(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORKD_URL", f"unix:{data_dir}/none.sock")
    with ForkdClient() as client, pytest.raises(ForkdError, match="No controller answers at"):
        client.health()
    assert starts(data_dir) == []


def test_one_that_cannot_start_shows_the_end_of_its_log(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_program(data_dir, "#!/bin/sh\necho 'no such option: --no-tcp' >&2; exit 2\n", monkeypatch)
    with pytest.raises(ForkdError, match="ended with exit code 2:\nno such option") as caught:
        ensure_controller()
    assert caught.value.code == "controller_failed"


def test_a_missing_program_is_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORKD_CONTROLLER_BIN", str(data_dir / "none"))
    with pytest.raises(ForkdError, match=r"No controller program was found at .*/none\.") as caught:
        ensure_controller()
    assert caught.value.code == "controller_missing"


def test_a_socket_path_that_the_kernel_would_cut_off_is_refused() -> None:
    with pytest.raises(ForkdError, match="longer than 107 bytes"):
        local_paths(f"/{'d' * 120}")
