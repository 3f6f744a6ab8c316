"""Uses `forkd.Sandbox` as its README does. It runs the command `forkd`, and talks to the agent at FORKD_TARGET."""

import json
import sys

from forkd import Sandbox

with Sandbox(tag=sys.argv[1], timeout=120) as sandbox:
    ran = sandbox.commands.run("echo out; exit 3")
    replies = {
        "run": {"stdout": ran.stdout, "stderr": ran.stderr, "exit_code": ran.exit_code},
        "run_list": sandbox.commands.run(["echo", "a b"]).stdout,
        "eval": sandbox.eval("6 * 7"),
        "ping": sandbox.ping(),
    }
    try:
        sandbox.eval("1 / 0")
    except RuntimeError as error:
        replies["eval_raises"] = str(error)
print(json.dumps(replies))
