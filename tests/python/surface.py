"""Prints the names of the package `forkd` as one JSON object: its exports, the members of its classes, and its models."""

import inspect
import json
import re

import forkd


def members(cls):
    """The methods and properties of a class. `async with` and the like have no name."""
    return [name for name in vars(cls) if not name.startswith("_")]


def attributes(cls):
    """The public attributes that its `__init__` sets."""
    return re.findall(r"^        self\.([a-z]\w*)(?:: [^=]+)? =", inspect.getsource(cls), re.MULTILINE)


classes = {
    name: {"members": members(cls), "attributes": attributes(cls)}
    for name, cls in vars(forkd).items()
    if inspect.isclass(cls) and cls.__module__.startswith("forkd.") and not issubclass(cls, Exception)
}
models = [name for name in vars(forkd.models) if name[0].isupper()]
print(json.dumps({"exports": forkd.__all__, "classes": classes, "models": models}))
