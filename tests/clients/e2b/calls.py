"""Calls the methods of a package and tells the results, for methods.py and interpreter.py."""

import json
import os
import traceback


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind} was raised")


def call_all(methods):
    """Prints one line of JSON for each method: `works`, or its error."""
    for method, call in methods.items():
        try:
            call()
            result = "works"
        except Exception as error:
            result = traceback.format_exc() if "E2B_STACKS" in os.environ else f"{type(error).__name__}: {error}"
        print(json.dumps({"method": method, "result": result}), flush=True)
