"""What keeps the fuzzer from harming the host or waiting for ever, and what lets it get past the first 404.

Half of the requests are sent as they were made up. In the other half, names that could be of something are replaced by names
of what is there. Whatever is made up about guests stays in guests; what would reach the host is left out by the test that
starts this: POST /v1/snapshots, whose paths and images are the host's and the network's.
"""

import json
import os
import random

import schemathesis

TARGET = json.loads(os.environ["FORKD_FUZZ_TARGET"])
SANDBOXES = TARGET["sandboxes"]
TAGS = TARGET["tags"]
COMMANDS = TARGET["commands"]
WORKSPACES = TARGET["workspaces"]

# What ends a thing must not end those that all other requests need.
ENDING = {"deleteSandbox", "deleteSnapshot", "deleteWorkspace"}

SECS_MAX = 2
CHILDREN_MAX = 2
CHILD_LIVES_SECS = 5

chance = random.Random(TARGET["seed"])


@schemathesis.hook
def before_call(context, case, kwargs):
    name = case.operation.definition.raw.get("operationId")
    if name in ENDING:
        spare(case)
    elif chance.random() < 0.5 or is_of_child(case):
        aim(case, name)
    if name == "pauseSandbox":
        # The other one answers all the while.
        case.path_parameters["id"] = SANDBOXES[-1]
    if name == "connectPort":
        # Whether a program listens on a port is up to the guest, and 502 is the right answer where none does.
        case.path_parameters["id"] = "another"
    bound_query(case)
    if isinstance(case.body, dict):
        bound_body(case.body, name)


def is_of_child(case):
    """Children live for seconds only, and one that ends in the middle of a request is rightly a failure of the request."""
    given = str((case.path_parameters or {}).get("id"))
    return given.startswith("sb-") and given not in SANDBOXES


def spare(case):
    """Names are also found in what the controller answers."""
    path = case.path_parameters or {}
    for field, needed in (("id", SANDBOXES), ("tag", TAGS), ("name", WORKSPACES)):
        if path.get(field) in needed:
            path[field] = "another"


def aim(case, name):
    path = case.path_parameters or {}
    if "id" in path:
        sandbox = chance.choice(SANDBOXES)
        path["id"] = sandbox
        if "cid" in path:
            path["cid"] = COMMANDS[sandbox]
    if "tag" in path:
        path["tag"] = chance.choice(TAGS)
    if "name" in path:
        path["name"] = chance.choice(WORKSPACES)
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("snapshot_tag"), str):
        body["snapshot_tag"] = chance.choice(TAGS)


def bound_query(case):
    """A stream that is followed ends only when what it follows does."""
    query = case.query or {}
    if "follow" in query:
        query["follow"] = "false"


def bound_body(body, name):
    bound(body, "timeout_secs", SECS_MAX)
    bound(body, "n", CHILDREN_MAX)
    if name == "startCommand" and body.get("timeout_secs") is None:
        body["timeout_secs"] = SECS_MAX
    if name == "createSandboxes":
        bound(body, "ttl_secs", CHILD_LIVES_SECS)
        if body.get("ttl_secs") is None:
            body["ttl_secs"] = CHILD_LIVES_SECS
        if body.get("on_expire") == "pause":
            body["on_expire"] = "kill"
    if name == "updateSandbox":
        # Those that all others need live on, and under no other name.
        body.pop("ttl_secs", None)
        body.pop("name", None)
    if name == "pruneSnapshots" and body.get("dry_run") is False:
        body["dry_run"] = True


def bound(body, field, most):
    value = body.get(field)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > most:
        body[field] = most
