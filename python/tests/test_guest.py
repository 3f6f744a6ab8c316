"""Proves both clients on a real controller with real guests. FORKD_URL and FORKD_TOKEN name the controller, FORKD_TEST_SOCKET its
socket, and FORKD_TEST_TEMPLATE a template with a warm Python. Left out without them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from forkd import (
    AsyncEvents,
    AsyncForkdClient,
    AsyncSandbox,
    AsyncSnapshot,
    ConflictError,
    ForkdClient,
    ForkdError,
    Gap,
    NotFoundError,
    Sandbox,
    Snapshot,
    fork_map,
)

TEMPLATE = os.environ.get("FORKD_TEST_TEMPLATE", "")
pytestmark = pytest.mark.skipif(TEMPLATE == "", reason="FORKD_TEST_TEMPLATE names no template")

ENDLESS = "while sleep 0.05; do echo tick; done"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.create(TEMPLATE, name="python", labels={"of": "python"}, timeout=600) as sandbox:
        yield sandbox


def test_a_sandbox_is_found_by_its_name_and_its_labels(sandbox: Sandbox) -> None:
    assert Sandbox.connect("python").id == sandbox.id
    assert [one.id for one in Sandbox.list(labels={"of": "python"}, state="running")] == [sandbox.id]
    assert Sandbox.list(name="another") == []
    with pytest.raises(ConflictError):
        Sandbox.create(TEMPLATE, name="python")


def test_a_terminal_takes_keys_and_sizes(sandbox: Sandbox) -> None:
    with sandbox.pty.create(command=["sh"], cols=100, rows=30) as pty:
        assert [info["id"] for info in sandbox.pty.list()] == [pty.id]
        sandbox.pty.resize(pty.id, {"cols": 90, "rows": 20})
        pty.send_input("stty size; exit 3\r")
        shown: list[bytes] = []
        assert pty.wait(on_data=shown.append).exit_code == 3
    assert b"20 90\r\n" in b"".join(shown)
    assert sandbox.pty.kill(pty.id)


def test_a_command_runs_with_its_options_and_its_output_arrives_meanwhile(sandbox: Sandbox) -> None:
    heard: list[bytes] = []
    ran = sandbox.commands.run(
        'echo "$A in $(pwd)"; echo "grüße" >&2; exit 3', env={"A": "a"}, cwd="/tmp", on_stdout=heard.append
    )
    assert (ran.stdout, ran.stderr, ran.exit_code, ran.truncated) == ("a in /tmp\n", "grüße\n", 3, False)
    assert b"".join(heard) == b"a in /tmp\n"
    late = sandbox.commands.run(["sh", "-c", "echo so far; sleep 1000"], timeout=0.5)
    assert (late.stdout, late.timed_out, late.signal) == ("so far\n", True, "KILL")
    assert sandbox.commands.run(["no-such-program"]).exit_code == 127
    assert sandbox.commands.list() == []


def test_a_command_is_fed_signalled_attached_to_and_killed(sandbox: Sandbox) -> None:
    cat = sandbox.commands.start(["cat"], stdin=True)
    sandbox.commands.send_stdin(cat["id"], iter([b"from ", b"far away"]), close=True)
    assert sandbox.commands.attach(cat["id"]).wait().stdout == "from far away"
    assert sandbox.commands.attach(cat["id"], offset=5).wait().stdout == "far away"
    with sandbox.commands.follow(ENDLESS) as handle:
        first = next(iter(handle))
        assert not isinstance(first, Gap)
        assert (first.type, first.offset, first.data) == ("stdout", 0, b"tick\n")
    again = sandbox.commands.attach(handle.id)
    again.signal("TERM")
    assert again.wait().signal == "TERM"
    assert {command["id"] for command in sandbox.commands.list()} == {cat["id"], handle.id}
    assert [sandbox.commands.kill(cat["id"]), handle.kill(), handle.kill()] == [True, True, False]


def test_files_are_written_read_listed_watched_and_removed(sandbox: Sandbox) -> None:
    files = sandbox.files
    files.write("/srv/p/one", iter([b"a", b"\xff"]), mode="0600")
    assert (files.read_bytes("/srv/p/one"), files.stat("/srv/p/one")["mode"]) == (b"a\xff", "0600")
    files.write("/srv/p/two", "grüße")
    assert (files.read("/srv/p/two"), b"".join(files.read_stream("/srv/p/two"))) == ("grüße", "grüße".encode())
    files.make_dir("/srv/p/dir")
    files.rename("/srv/p/two", "/srv/p/dir/three")
    assert sorted((entry["name"], entry["type"]) for entry in files.list("/srv/p")) == [("dir", "dir"), ("one", "file")]
    changes = files.watch("/srv/p", recursive=True)
    assert next(changes)["type"] == "ready"
    files.write("/srv/p/dir/four", "4")
    assert next(changes) == {"type": "create", "path": "/srv/p/dir/four"}
    changes.close()
    assert [files.exists("/srv/p/one"), files.exists("/srv/p/one/below")] == [True, False]
    assert [files.remove("/srv/p", recursive=True), files.remove("/srv/p")] == [True, False]
    with pytest.raises(NotFoundError, match="/srv/p/one"):
        files.read("/srv/p/one")


def test_code_is_evaluated_in_the_warm_interpreter(sandbox: Sandbox) -> None:
    assert sandbox.eval("x = json.dumps([1])")["result"] is None
    assert sandbox.eval("x")["result"] == "'[1]'"
    failed = sandbox.eval("1 / 0", timeout=5)
    assert failed["error"] == "ZeroDivisionError: division by zero"


def test_a_branch_is_forked_and_removed(sandbox: Sandbox) -> None:
    reasons: list[ForkdError] = []
    sandbox.eval("x = 1")
    branch = sandbox.branch(tag="python-branch", on_fallback=reasons.append)
    sandbox.eval("x = 2")
    assert all(reason.code == "unsupported" for reason in reasons)
    with branch.fork()[0] as child:
        assert (child.eval("x")["result"], sandbox.eval("x")["result"]) == ("1", "2")
    assert branch.wait_until("durable").info["status"] == "ready"
    assert branch.detail()["ancestors"] == [TEMPLATE]
    assert "python-branch" in [snapshot.tag for snapshot in Snapshot.list()]
    with pytest.raises(ForkdError, match="it is a branch of sandbox"):
        branch.rebuild()
    assert [branch.delete(), branch.delete()] == [True, False]


def test_a_sandbox_is_paused_observed_and_given_a_time(sandbox: Sandbox) -> None:
    sandbox.pause()
    assert [sandbox.is_running(), sandbox.get_info().get("state")] == [False, "paused"]
    with pytest.raises(ConflictError):
        sandbox.ping()
    sandbox.resume()
    assert [sandbox.is_running(), sandbox.ping()["pong"]] == [True, True]
    assert sandbox.set_timeout(3600.5, on_timeout="pause").get("on_expire") == "pause"
    assert sandbox.stats()["shared_bytes"] > 0
    assert sandbox.memory()["private_bytes"] > 0
    assert isinstance("".join(sandbox.logs(tail_bytes=1000)), str)


def test_the_routes_without_an_object_answer() -> None:
    with ForkdClient() as client:
        assert client.version()["api"] == "v1"
        assert client.host()["engine"]["name"]
        made = client.create_sandboxes_partially({"snapshot_tag": TEMPLATE})
        [id] = [result["sandbox"]["id"] for result in made["results"] if "sandbox" in result]
        assert client.exec(id, {"args": ["echo", "a"]})["stdout"] == "a\n"
        client.delete_sandbox(id)
        assert Snapshot.prune(keep=1000, dry_run=True, client=client)["removed"] == []


def test_the_asynchronous_client_does_the_same_over_the_socket() -> None:
    async def main() -> None:
        async with AsyncForkdClient(socket=os.environ["FORKD_TEST_SOCKET"]) as client:
            events = AsyncEvents(client=client)
            heard = asyncio.create_task(first_end(events))
            async with await AsyncSandbox.create(TEMPLATE, client=client) as sandbox:
                assert (await sandbox.commands.run("echo a; exit 3")).exit_code == 3
                await sandbox.files.write("/tmp/a", in_parts(b"ab", b"cd"))
                assert [chunk async for chunk in sandbox.files.read_stream("/tmp/a")] == [b"abcd"]
                async with await sandbox.commands.follow(ENDLESS, on_disconnect="kill") as handle:
                    async for chunk in handle:
                        assert chunk.type == "stdout"
                        break
                [twin] = await sandbox.fork(1, tag="python-async")
                assert (await twin.files.read("/tmp/a"), await twin.kill()) == ("abcd", True)
                branch = await AsyncSnapshot.get("python-async", client=client)
                await branch.wait_until("durable")
                assert await branch.delete()
            assert await asyncio.wait_for(heard, 60) in {twin.id, sandbox.id}
            assert await sandbox.is_running() is False

    asyncio.run(main())


async def in_parts(*parts: bytes):  # type: ignore[no-untyped-def]
    for part in parts:
        yield part


async def first_end(events: AsyncEvents) -> str | None:
    async for event in events:
        if event["type"] == "sandbox.ended":
            return event.get("sandbox")
    return None


def test_a_map_gives_each_item_a_sandbox_and_ends_them_all() -> None:
    progress: list[tuple[int, int | None]] = []

    async def score(sandbox: AsyncSandbox, item: int) -> str | None:
        assert len(await AsyncSandbox.list(labels={"of": "map"})) <= 2
        if item == 2:
            raise ValueError("not two")
        return (await sandbox.eval(f"{item} * {item}"))["result"]

    async def main() -> None:
        results = {}
        template = await AsyncSnapshot.get(TEMPLATE)
        done = fork_map(
            template,
            score,
            range(4),
            concurrency=2,
            on_progress=lambda *seen: progress.append(seen),
            labels={"of": "map"},
        )
        async for result in done:
            results[result.item] = result.value or repr(result.error)
        assert results == {0: "0", 1: "1", 2: "ValueError('not two')", 3: "9"}
        missing = [result async for result in fork_map("no-such-tag", score, [1])]
        assert isinstance(missing[0].error, NotFoundError)

    asyncio.run(main())
    assert progress == [(count, 4) for count in range(1, 5)]
    assert Sandbox.list(labels={"of": "map"}) == []


EARLY = """
import asyncio, sys
from forkd import AsyncSandbox, Sandbox, fork_map

template, how = sys.argv[1:]
labels = {"of": "early"}


async def last(sandbox, item):
    if item > 0:
        await sandbox.commands.run("sleep 1000")


async def main():
    async for _ in fork_map(template, last, range(100), concurrency=2, labels=labels):
        print("ready", flush=True)
        if how == "body":
            await asyncio.sleep(1000)
        if how == "break":
            break


if how == "run":
    with Sandbox.create(template, labels=labels) as sandbox:
        print("ready", flush=True)
        sandbox.commands.run("sleep 1000")
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize(("how", "is_interrupted"), [("run", True), ("loop", True), ("body", True), ("break", False)])
def test_nothing_is_left_of_a_program_that_ends_early(how: str, is_interrupted: bool) -> None:
    program = [sys.executable, "-c", EARLY, TEMPLATE, how]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:  # noqa: S603
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        if is_interrupted:
            child.send_signal(signal.SIGINT)
        try:
            _, errors = child.communicate(timeout=60)
        finally:
            child.kill()
    assert Sandbox.list(labels={"of": "early"}) == [], errors
