"""Calls the methods of the PyPI package `e2b` as its users do, and prints one line of JSON for each: `works`, or its error.

E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY name the controller; the argument is a template.
"""

import http.client
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import e2b
from calls import call_all, raises
from e2b import Sandbox, SandboxQuery, SandboxState

TEMPLATE = sys.argv[1]
WATCH_SECS_MAX = 30
sandbox: Sandbox


def create():
    global sandbox
    sandbox = Sandbox.create(TEMPLATE, timeout=120, metadata={"of": "py"}, envs={"MINE": "mine"})
    assert sandbox.sandbox_id.startswith("sb-")


def is_running():
    assert sandbox.is_running()


def get_info():
    info = sandbox.get_info()
    assert (info.template_id, info.metadata, info.state) == (TEMPLATE, {"of": "py"}, SandboxState.RUNNING)
    assert info.end_at > info.started_at


def set_timeout():
    sandbox.set_timeout(600)
    info = sandbox.get_info()
    assert (info.end_at - info.started_at).total_seconds() > 500


def get_metrics():
    [metrics] = sandbox.get_metrics()
    assert metrics.mem_total > 0 and metrics.mem_used > 0


def list_sandboxes():
    def found(**query):
        return [info.sandbox_id for info in Sandbox.list(query=SandboxQuery(**query)).next_items()]

    assert found(metadata={"of": "py"}, state=[SandboxState.RUNNING, SandboxState.PAUSED]) == [sandbox.sandbox_id]
    assert found(metadata={"of": "p y&=%"}) == []
    assert len(Sandbox.list(limit=1).next_items()) == 1


def connect():
    same = Sandbox.connect(sandbox.sandbox_id)
    assert same.commands.run("echo here").stdout == "here\n"


def run():
    script = 'echo out; echo err >&2; echo "$MINE $YOURS"; pwd; id -un'
    result = sandbox.commands.run(script, envs={"YOURS": "yours"})
    printed = ("out\nmine yours\n/home/user\nuser\n", "err\n", 0)
    assert (result.stdout, result.stderr, result.exit_code) == printed
    assert sandbox.commands.run("id -un; pwd", user="root", cwd="/tmp").stdout == "root\n/tmp\n"
    assert raises(e2b.CommandExitException, lambda: sandbox.commands.run("exit 3")).exit_code == 3
    raises(e2b.InvalidArgumentException, lambda: sandbox.commands.run("true", cwd="/none"))
    raises(e2b.AuthenticationException, lambda: sandbox.commands.run("true", user="nobody-such"))
    raises(e2b.TimeoutException, lambda: sandbox.commands.run("sleep 60", timeout=1))


def streaming():
    seen = []
    script = 'echo one; read line; echo "two $line"; echo three >&2'
    handle = sandbox.commands.run(script, background=True, stdin=True)
    handle.send_stdin("typed\n")
    result = handle.wait(on_stdout=seen.append, on_stderr=seen.append)
    assert (result.stdout, result.stderr) == ("one\ntwo typed\n", "three\n")
    assert sorted("".join(seen)) == sorted(result.stdout + result.stderr)


def stdin():
    handle = sandbox.commands.run("cat; echo end", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "a\n")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "a\nend\n"
    raises(e2b.NotFoundException, lambda: sandbox.commands.send_stdin(handle.pid + 100_000, "x"))


def stream_input():
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, iter(["one\n", "two\n"]))
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "one\ntwo\n"


def list_and_kill():
    script = 'echo ready; read line; echo "got $line"; sleep 600'
    handle = sandbox.commands.run(script, background=True, stdin=True, envs={"A": "b"})
    [listed] = [one for one in sandbox.commands.list() if one.pid == handle.pid]
    assert (listed.cmd, listed.args[-1], listed.envs) == ("/bin/bash", script, {"A": "b"})
    handle.disconnect()
    again = Sandbox.connect(sandbox.sandbox_id).commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "later\n")
    assert any("got later" in (stdout or "") for stdout, _, _ in again)
    assert sandbox.commands.kill(handle.pid)
    assert raises(e2b.CommandExitException, again.wait).exit_code == -1
    assert not sandbox.commands.kill(handle.pid)


def write_and_read():
    info = sandbox.files.write("notes/a b.txt", "grüße")
    assert (info.path, info.name) == ("/home/user/notes/a b.txt", "a b.txt")
    assert sandbox.files.read("~/notes/a b.txt") == "grüße"
    assert sandbox.files.read("/home/user/notes/a b.txt", format="bytes") == "grüße".encode()
    assert b"".join(sandbox.files.read("notes/a b.txt", format="stream")) == "grüße".encode()
    sandbox.commands.run('echo more >> "notes/a b.txt" && touch notes/next')
    raises(e2b.FileNotFoundException, lambda: sandbox.files.read("none"))
    raises(e2b.InvalidArgumentException, lambda: sandbox.files.read("/tmp"))
    large = b"x" * 5_000_000
    sandbox.files.write("large", large)
    assert sandbox.files.read("large", format="bytes") == large
    sandbox.files.write("empty", "")
    assert sandbox.files.read("empty") == ""


def write_octets():
    sandbox.files.write("octets", "plain", use_octet_stream=True)
    sandbox.files.write("pressed", "compressed", use_octet_stream=True, gzip=True)
    assert (sandbox.files.read("octets"), sandbox.files.read("pressed")) == ("plain", "compressed")


def write_files():
    entries = [{"path": "many/one", "data": "1"}, {"path": "/tmp/many/two", "data": b"2"}]
    infos = sandbox.files.write_files(entries)
    assert [info.path for info in infos] == ["/home/user/many/one", "/tmp/many/two"]
    assert (sandbox.files.read("many/one"), sandbox.files.read("/tmp/many/two")) == ("1", "2")


def list_files():
    sandbox.commands.run("mkdir -p tree/inner && echo x > tree/inner/leaf && ln -s inner/leaf tree/link")

    def names(entries):
        return [entry.path.removeprefix("/home/user/tree/") for entry in entries]

    assert names(sandbox.files.list("tree")) == ["inner", "link"]
    deep = sandbox.files.list("tree", depth=2)
    assert names(deep) == ["inner", "inner/leaf", "link"]
    assert (deep[0].type.value, deep[1].size, deep[2].symlink_target) == ("dir", 2, "inner/leaf")
    raises(e2b.FileNotFoundException, lambda: sandbox.files.list("none"))


def exists_and_info():
    assert sandbox.files.exists("tree") and not sandbox.files.exists("none")
    info = sandbox.files.get_info("tree/inner/leaf")
    facts = (info.size, info.mode, info.permissions, info.owner, info.group)
    assert facts == (2, 0o644, "-rw-r--r--", "user", "user")
    assert abs(info.modified_time.timestamp() - time.time()) < 600


def make_dir():
    assert sandbox.files.make_dir("made/deep")
    assert not sandbox.files.make_dir("made/deep")
    assert sandbox.files.get_info("made").owner == "user"
    raises(e2b.InvalidArgumentException, lambda: sandbox.files.make_dir("empty"))


def rename_and_remove():
    assert sandbox.files.rename("made", "moved/here").path == "/home/user/moved/here"
    sandbox.files.remove("moved")
    sandbox.files.remove("moved")
    assert not sandbox.files.exists("moved")
    raises(e2b.FileNotFoundException, lambda: sandbox.files.rename("none", "x"))


def watch_dir():
    sandbox.files.make_dir("watched/sub")
    watch = sandbox.files.watch_dir("watched", recursive=True)
    sandbox.commands.run("echo x > watched/new; mv watched/new watched/old; rm watched/old; echo > watched/sub/last")
    seen = []
    deadline = time.monotonic() + WATCH_SECS_MAX
    while "create sub/last" not in seen and time.monotonic() < deadline:
        seen += [f"{event.type.value} {event.name}" for event in watch.get_new_events()]
        time.sleep(0.05)
    missing = {"create new", "rename new", "create old", "remove old", "create sub/last"} - set(seen)
    assert not missing, f"{missing} are not among {seen}"
    watch.stop()
    raises(e2b.NotFoundException, lambda: sandbox.files.watch_dir("none"))


def signed_urls():
    def fetch(url, data=None, headers=None):
        request = urllib.request.Request(url, data=data, headers=headers or {})
        try:
            with urllib.request.urlopen(request) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nsigned\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert fetch(sandbox.upload_url("signed", use_signature_expiration=60), form, headers)[0] == 200
    url = sandbox.download_url("signed")
    assert fetch(url) == (200, b"signed")
    assert fetch(url.replace("path=signed", "path=octets"))[0] == 401
    assert fetch(sandbox.download_url("signed", use_signature_expiration=-60))[0] == 401


def fork():
    handle = sandbox.commands.run('read line; echo "got $line"', background=True, stdin=True)
    children = sandbox.fork(count=2, timeout=60)
    for index, child in enumerate([sandbox, *children]):
        child.commands.send_stdin(handle.pid, f"{index}\n")
        assert child.files.read("octets") == "plain"
    assert handle.wait().stdout == "got 0\n"
    assert children[0].commands.run("echo $MINE").stdout == "mine\n"
    assert [child.kill() for child in children] == [True, True]


def snapshots():
    sandbox.files.write("state", "kept")
    snapshot_id = sandbox.create_snapshot().snapshot_id
    assert [one.snapshot_id for one in sandbox.list_snapshots().next_items()] == [snapshot_id]
    child = Sandbox.create(snapshot_id)
    assert child.files.read("state") == "kept"
    child.kill()
    assert Sandbox.delete_snapshot(snapshot_id)
    assert not Sandbox.delete_snapshot(snapshot_id)


def pause():
    assert sandbox.pause()
    assert not sandbox.pause()
    assert sandbox.get_info().state == SandboxState.PAUSED
    assert not sandbox.is_running()
    sandbox.connect(timeout=300)
    assert sandbox.files.read("state") == "kept"


def git():
    sandbox.git.init("/home/user/repo")
    assert sandbox.commands.run("git -C repo rev-parse --is-inside-work-tree").stdout == "true\n"


def pty():
    terminal = sandbox.pty.create(size=e2b.PtySize(rows=24, cols=80))
    sandbox.pty.resize(terminal.pid, e2b.PtySize(rows=30, cols=100))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; exit\n")
    text = b"".join(pty for _, _, pty in terminal if pty)
    assert b"30 100" in text


def get_host():
    sandbox.commands.run("python3 -m http.server 8000 --directory /etc", background=True)
    host = sandbox.get_host(8000)
    address = urllib.parse.urlsplit(f"http://{host}")
    assert address.hostname.startswith("8000-sb-") and address.hostname.endswith(".localhost")
    # The program in the guest needs a moment until it listens.
    for _ in range(100):
        connection = http.client.HTTPConnection("127.0.0.1", address.port)
        connection.request("GET", "/hostname", headers={"host": host, "x-forkd-token": os.environ["E2B_API_KEY"]})
        reply = connection.getresponse()
        text = reply.read().decode()
        if reply.status == 200:
            break
        time.sleep(0.1)
    assert text == sandbox.commands.run("cat /etc/hostname").stdout


def kill():
    assert sandbox.kill()
    assert not sandbox.kill()
    raises(e2b.SandboxException, lambda: sandbox.commands.run("true"))
    raises(e2b.SandboxNotFoundException, sandbox.get_info)
    error = raises(e2b.SandboxException, lambda: Sandbox.create("no-such-template"))
    assert "There is no template 'no-such-template'" in str(error)


# In the order in which they are tried: each uses what earlier ones have made. The names are those of the npm package.
METHODS = {
    "Sandbox.create": create,
    "sandbox.isRunning": is_running,
    "sandbox.getInfo": get_info,
    "sandbox.setTimeout": set_timeout,
    "sandbox.getMetrics": get_metrics,
    "Sandbox.list": list_sandboxes,
    "Sandbox.connect": connect,
    "commands.run": run,
    "commands.run, streaming": streaming,
    "commands.sendStdin, closeStdin": stdin,
    "commands.streamInput": stream_input,
    "commands.list, connect, kill": list_and_kill,
    "files.write, read": write_and_read,
    "files.write, as octet-stream and compressed": write_octets,
    "files.writeFiles": write_files,
    "files.list": list_files,
    "files.exists, getInfo": exists_and_info,
    "files.makeDir": make_dir,
    "files.rename, remove": rename_and_remove,
    "files.watchDir": watch_dir,
    "sandbox.uploadUrl, downloadUrl": signed_urls,
    "sandbox.fork": fork,
    "sandbox.createSnapshot, listSnapshots, deleteSnapshot": snapshots,
    "sandbox.pause, connect": pause,
    "sandbox.git": git,
    "sandbox.pty": pty,
    "sandbox.getHost": get_host,
    "sandbox.kill": kill,
}

call_all(METHODS)
