"""Calls every method of `forkd.Controller`, and prints the replies as one JSON object."""

import json
import sys
import time

from forkd import Controller, ControllerError

TEMPLATE = sys.argv[1]
MODE = sys.argv[2]

controller = Controller(timeout=300)
replies = {}
replies["list_snapshots"] = controller.list_snapshots()
spawned = controller.spawn_sandboxes(TEMPLATE, n=2, prewarm=True, live_fork=True, hugepages=True)
replies["spawn_sandboxes"] = spawned
one, other = (sandbox["id"] for sandbox in spawned)
replies["list_sandboxes"] = controller.list_sandboxes()
replies["get_sandbox"] = controller.get_sandbox(one)
replies["ping_sandbox"] = controller.ping_sandbox(one)
replies["exec_command"] = controller.exec_command(one, ["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_secs=60)
replies["eval_code"] = controller.eval_code(one, "6 * 7")
replies["eval_code_raises"] = controller.eval_code(one, "1 / 0")
replies["branch_full"] = controller.branch_sandbox(one)
replies["branch_diff"] = controller.branch_sandbox(one, tag="by-diff", diff=True)
replies["branch_measured"] = controller.branch_sandbox(one, tag="measured", measure_diff=True)
replies["branch_mode"] = controller.branch_sandbox(one, tag="by-mode", mode=MODE, wait=MODE != "live")


def status_of(tag):
    return next(snapshot["status"] for snapshot in controller.list_snapshots() if snapshot["tag"] == tag)


# What such a program does as soon as a snapshot is ready: remove it, and branch the sandbox again.
while status_of("by-mode") == "writing":
    time.sleep(0.05)
replies["status_of_mode"] = status_of("by-mode")
replies["branch_again"] = controller.branch_sandbox(one, tag="again", mode="diff")
replies["delete_snapshot"] = controller.delete_snapshot("by-mode")
[child] = controller.spawn_sandboxes("by-diff")
replies["ping_child"] = controller.ping_sandbox(child["id"])
try:
    controller.get_sandbox("sb-none")
except ControllerError as error:
    replies["error"] = {"status": error.status, "body": error.body}
for sandbox in (one, other, child["id"]):
    replies["kill_sandbox"] = controller.kill_sandbox(sandbox)
# The other branches have what they need without the one that is removed first.
for tag in ("by-diff", "measured", "again", replies["branch_full"]["tag"]):
    controller.delete_snapshot(tag)
print(json.dumps(replies))
