"""Runs a program on a terminal, as a person has one.

Takes lines of JSON on stdin: `{"keys": "text"}` or `{"size": [rows, cols]}`. The screen goes to stdout. Writes JSON to stderr: the pid at
the start, and at the end the exit code, and whether the terminal is as it was before.
"""

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import termios

POLL_SECS = 0.05

master, slave = os.openpty()


def set_size(rows, cols):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def report(**values):
    print(json.dumps(values), file=sys.stderr, flush=True)


set_size(24, 80)
before = termios.tcgetattr(slave)
child = subprocess.Popen(
    sys.argv[1:],
    stdin=slave,
    stdout=slave,
    stderr=slave,
    start_new_session=True,
    preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
)
report(pid=child.pid)
lines = b""
watched = [0, master]
while True:
    has_ended = child.poll() is not None
    ready, _, _ = select.select(watched, [], [], POLL_SECS)
    if master in ready:
        os.write(1, os.read(master, 65536))
    elif has_ended:
        break
    if 0 in ready:
        read = os.read(0, 65536)
        if not read:
            watched.remove(0)
        *whole, lines = (lines + read).split(b"\n")
        for line in whole:
            order = json.loads(line)
            if "size" in order:
                set_size(*order["size"])
            else:
                os.write(master, order["keys"].encode())
report(code=child.returncode, restored=termios.tcgetattr(slave) == before)
