"""Proves what either client makes of replies: of those that are lost, refused, late, endless or wrong."""

from __future__ import annotations

import asyncio
import builtins
import pickle
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peer import LOST, SILENCE, Peer, body_of, reply, stream

from forkd import (
    AsyncForkdClient,
    AsyncSandbox,
    ConflictError,
    ForkdClient,
    ForkdError,
    NotFoundError,
    Sandbox,
    TimeoutError,
)

Ask = Callable[..., Any]

VERSION = reply(200, {"version": "1", "api": "v1"})
BUSY = {"error": "Everything is busy.", "code": "busy", "hint": "Try again in a moment."}


def test_a_read_whose_reply_was_lost_is_repeated(ask: Ask) -> None:
    with Peer([LOST, VERSION]) as peer:
        assert ask(peer.url, "version") == {"version": "1", "api": "v1"}
        assert [asked.line for asked in peer.asked] == ["GET /version HTTP/1.1"] * 2


def test_a_fork_whose_reply_was_lost_is_repeated_with_the_same_key(ask: Ask) -> None:
    with Peer([LOST, reply(201, [])]) as peer:
        assert ask(peer.url, "create_sandboxes", {"snapshot_tag": "py"}) == []
        first, second = peer.asked
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
        assert body_of(first) == body_of(second) == {"snapshot_tag": "py"}


STARTED = [{"id": "sb-1", "snapshot_tag": "py"}, {"id": "sb-2", "snapshot_tag": "py"}]
UNDONE = [SILENCE, reply(201, STARTED), reply(204, b"")]


def check_undone(peer: Peer) -> None:
    """The fork was sent again with its key, to learn what it had started, and both sandboxes were ended."""
    first, second, *ends = peer.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body
    assert [end.line for end in ends] == [f"DELETE /v1/sandboxes/{one['id']} HTTP/1.1" for one in STARTED]


def test_a_fork_that_is_interrupted_ends_what_it_has_started() -> None:
    def interrupt(peer: Peer) -> None:
        wait_for(lambda: len(peer.asked) == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with Peer(UNDONE) as peer, ForkdClient(url=peer.url) as client:
        threading.Thread(target=interrupt, args=[peer]).start()
        with pytest.raises(KeyboardInterrupt):
            Sandbox.create_many("py", 2, client=client)
        check_undone(peer)


def test_an_error_of_a_block_is_not_hidden_by_a_sandbox_that_cannot_be_ended() -> None:
    with Peer([reply(201, STARTED[:1]), reply(500, BUSY)]) as peer, ForkdClient(url=peer.url) as client:
        with pytest.raises(ForkdError, match="Everything is busy"), Sandbox.create("py", client=client):
            pass
        peer.asked.clear()
        with pytest.raises(ValueError, match="mine"), Sandbox.create("py", client=client):
            raise ValueError("mine")


def test_a_fork_that_is_cancelled_ends_what_it_has_started() -> None:
    async def main(peer: Peer) -> None:
        async with AsyncForkdClient(url=peer.url) as client:
            fork = asyncio.create_task(AsyncSandbox.create_many("py", 2, client=client))
            await asyncio.to_thread(wait_for, lambda: len(peer.asked) == 1)
            fork.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fork

    with Peer(UNDONE) as peer:
        asyncio.run(main(peer))
        check_undone(peer)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "The condition did not come true within 30 s."
        time.sleep(0.01)


def test_a_command_whose_reply_was_lost_is_not_repeated(ask: Ask) -> None:
    with Peer([LOST, reply(201, {})]) as peer:
        with pytest.raises(ForkdError, match="POST /v1/sandboxes/sb-1/commands: the connection was lost") as caught:
            ask(peer.url, "start_command", "sb-1", {"args": ["true"]})
        assert caught.value.code == "stream_cut"
        assert len(peer.asked) == 1


def test_a_read_that_is_refused_for_a_moment_is_repeated(ask: Ask) -> None:
    with Peer([reply(503, BUSY, ["retry-after: 0"]), VERSION]) as peer:
        assert ask(peer.url, "version")["version"] == "1"


def test_a_long_wait_is_left_to_the_caller(ask: Ask) -> None:
    with Peer([reply(503, BUSY, ["retry-after: 60"])]) as peer:
        with pytest.raises(ForkdError) as caught:
            ask(peer.url, "version")
        assert (caught.value.code, caught.value.retry_after, len(peer.asked)) == ("busy", 60, 1)


def test_a_refusal_of_the_controller_is_the_reply_to_a_fork_and_one_of_a_proxy_is_not(ask: Ask) -> None:
    with Peer([reply(503, BUSY)]) as peer:
        with pytest.raises(ForkdError, match="Everything is busy"):
            ask(peer.url, "create_sandboxes", {"snapshot_tag": "py"})
        assert len(peer.asked) == 1
    with Peer([reply(502, b"<html>", ["retry-after: 0"]), reply(201, [])]) as peer:
        assert ask(peer.url, "create_sandboxes", {"snapshot_tag": "py"}) == []


def test_an_error_has_its_code_sentence_hint_and_request(ask: Ask) -> None:
    body = {"error": "There is no sandbox 'x'.", "code": "not_found_sandbox", "hint": "Look.", "more": [1]}
    with Peer([reply(404, body, ["x-request-id: r-1"])]) as peer, pytest.raises(NotFoundError) as caught:
        ask(peer.url, "get_sandbox", "x")
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    for one in (caught.value, error):
        assert (one.code, str(one), one.hint) == ("not_found_sandbox", "There is no sandbox 'x'.", "Look.")
        assert (one.status, one.request_id, one.body) == (404, "r-1", body)


def test_an_error_that_is_not_of_the_controller_has_an_excerpt(ask: Ask) -> None:
    with Peer([reply(409, b"<html>" + b"x" * 5_000_000)]) as peer, pytest.raises(ConflictError) as caught:
        ask(peer.url, "ping", "sb-1")
    assert caught.value.code == "bad_response"
    assert str(caught.value).startswith("The server answered HTTP 409: <html>xxx")
    assert len(str(caught.value)) < 300


def test_a_peer_that_says_nothing_is_given_up(ask: Ask) -> None:
    with (
        Peer([SILENCE]) as peer,
        pytest.raises(TimeoutError, match=r"GET /version: no reply within 0\.3 s\.") as caught,
    ):
        ask(peer.url, "version", request_timeout=0.3)
    assert caught.value.code == "request_timeout"
    assert isinstance(caught.value, builtins.TimeoutError)


@pytest.mark.parametrize("method", ["version", "events"])
def test_a_reply_that_never_ends_is_given_up(ask: Ask, method: str) -> None:
    with Peer([stream(b"")], endless=b": no\n") as peer, pytest.raises(TimeoutError):
        ask(peer.url, method, request_timeout=0.5)


def test_a_reply_that_is_not_json_is_an_error(ask: Ask) -> None:
    with Peer([reply(200, b"yes")]) as peer, pytest.raises(ForkdError, match="GET /version: the reply is not JSON"):
        ask(peer.url, "version")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"type":"started"}\n{"type":', "stream_cut"),
        (b'{"type":"started"}\nno\n', "bad_response"),
        (b"x" * (4 * 1024 * 1024 + 1), "bad_response"),
    ],
)
def test_a_stream_of_lines_that_is_cut_wrong_or_too_long_is_an_error(ask: Ask, content: bytes, code: str) -> None:
    with Peer([stream(content)]) as peer, pytest.raises(ForkdError) as caught:
        ask(peer.url, "start_command_events", "sb-1", {"args": ["true"]})
    assert caught.value.code == code


def test_events_skip_comments_and_stay_below_their_limit(ask: Ask) -> None:
    with Peer([stream(b': here\n\ndata: {"id":\ndata: "1-1"}\n\n')]) as peer:
        assert ask(peer.url, "events", after="1-0") == [{"id": "1-1"}]
        assert peer.asked[0].headers["last-event-id"] == "1-0"
    line = b"data: " + b"x" * 1_000_000 + b"\n"
    with (
        Peer([stream(line)], endless=line) as peer,
        pytest.raises(ForkdError, match="event of more than 4194304 bytes"),
    ):
        ask(peer.url, "events")


def test_names_and_paths_arrive_as_they_are(ask: Ask) -> None:
    with Peer([reply(200, b"")]) as peer:
        ask(peer.url, "read_file", "a/b", "/tmp/ü &\udcff", token="a-token-of-the-test")
    [asked] = peer.asked
    assert asked.line == "GET /v1/sandboxes/a%2Fb/files?path=%2Ftmp%2F%C3%BC%20%26%FF HTTP/1.1"
    assert asked.headers["authorization"] == "Bearer a-token-of-the-test"


def test_an_address_where_nobody_listens_is_named(ask: Ask, tmp_path: Path) -> None:
    with Peer([VERSION]) as peer:
        url = peer.url
    for place, code in ((url, "ECONNREFUSED"), (f"unix:{tmp_path}/none.sock", "ENOENT")):
        with pytest.raises(ForkdError) as caught:
            ask(place, "version")
        assert str(caught.value) == f"No controller answers at {place} ({code})."
        assert "forkd-controller serve" in (caught.value.hint or "")


@pytest.mark.parametrize("url", ["localhost:8889", "ftp://here", "http://", "http://here:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ForkdError, match="is not the URL of a controller"):
        ForkdClient(url=url)


def test_a_keyword_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="There is no keyword argument 'lables'"):
        Sandbox.list(lables={})  # type: ignore[call-arg]


def test_a_certificate_is_trusted_only_if_its_authority_is_named(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-out", str(certificate), "-keyout", str(key)]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *files]
    subprocess.run(made, check=True, capture_output=True)  # noqa: S603
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    with Peer([VERSION], tls=tls) as peer:
        with pytest.raises(ForkdError, match="There is no trusted connection to https://") as caught:
            ask(peer.url, "version")
        assert "SSL_CERT_FILE" in (caught.value.hint or "")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert ask(peer.url, "version")["version"] == "1"
    with Peer([VERSION]) as peer, pytest.raises(ForkdError, match="No TLS is spoken at") as caught:
        ask(peer.url.replace("http:", "https:"), "version")
