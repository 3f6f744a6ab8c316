"""A warm Python interpreter: evaluates what the agent sends, one request after the other, and keeps its state in between.

Arguments: the numbers of four inherited descriptors. Requests come and responses go as one JSON object a line. A seed of
32 bytes comes on the third, announced by a signal, so that it is taken at once even while an evaluation runs; one byte
on the fourth says that it was.
"""

import ast
import json
import linecache
import os
import signal
import sys
import traceback
import types

RESEED_SIGNAL = 63
SEED_BYTES = 32
RESULT_CHARS_MAX = 1 << 20
SOURCES_MAX = 256

evaluating = False


def text_of(value):
    """Text that is valid UTF-8 whatever lone surrogates stand in it, and not longer than a response may be."""
    value = str(value)
    if len(value) > RESULT_CHARS_MAX:
        value = value[:RESULT_CHARS_MAX] + "... (cut)"
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def remember_source(name, number, source):
    """Lets tracebacks show the lines of what was evaluated, of the latest evaluations."""
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    linecache.cache.pop("<eval-%d>" % (number - SOURCES_MAX), None)


def evaluate(source, name, namespace):
    """Runs the statements; the value of a last expression is the result. Gives result, error, exit code."""
    global evaluating
    try:
        evaluating = True
        tree = ast.parse(source, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, name, "exec", dont_inherit=True), namespace)
        result = None
        if last is not None:
            result = text_of(repr(eval(compile(last, name, "eval", dont_inherit=True), namespace)))
        evaluating = False
        return result, None, 0
    except BaseException as error:
        evaluating = False
        return None, *describe(error)


def describe(error):
    """The traceback without this driver's own frame, and the exit code."""
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return (None, 0) if code == 0 else (text_of("SystemExit: %s" % error.code), code & 0xFF)
    frames = error.__traceback__ and error.__traceback__.tb_next
    # Of a syntax error the frames are all the parser's.
    frames = None if isinstance(error, SyntaxError) and error.filename.startswith("<eval-") else frames
    return text_of("".join(traceback.format_exception(type(error), error, frames))), 1


def reseed(seed):
    """Every generator of the process that holds state of its own. What is not imported will seed itself when it is."""
    if "random" in sys.modules:
        sys.modules["random"].seed(seed)
    if "numpy.random" in sys.modules:
        words = [int.from_bytes(seed[at : at + 4], "little") for at in range(0, SEED_BYTES, 4)]
        sys.modules["numpy.random"].seed(words)
    if "ssl" in sys.modules:
        sys.modules["ssl"].RAND_add(seed, float(SEED_BYTES))


def on_reseed(control, acks):
    def handler(_signal, _frame):
        try:
            seed = os.read(control, SEED_BYTES)
        except BlockingIOError:
            return
        try:
            reseed(seed)
            os.write(acks, b"\1")
        except Exception:
            os.write(acks, b"\0")

    return handler


def on_interrupt(_signal, _frame):
    if evaluating:
        raise KeyboardInterrupt


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            # The evaluated program may have closed or replaced it.
            pass


def main():
    descriptors = [int(number) for number in sys.argv[1:5]]
    for number in descriptors:
        os.set_inheritable(number, False)
    requests = os.fdopen(descriptors[0], "r", encoding="utf-8")
    responses = os.fdopen(descriptors[1], "w", encoding="utf-8")
    os.set_blocking(descriptors[2], False)
    signal.signal(RESEED_SIGNAL, on_reseed(descriptors[2], descriptors[3]))
    signal.signal(signal.SIGINT, on_interrupt)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.argv = [""]
    sys.path.insert(0, "")
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module

    def respond(response):
        responses.write(json.dumps(response) + "\n")
        responses.flush()

    respond({"ready": True})
    number = 0
    for line in requests:
        number += 1
        source = json.loads(line)["code"]
        name = "<eval-%d>" % number
        remember_source(name, number, source)
        result, error, exit_code = evaluate(source, name, module.__dict__)
        flush()
        respond({"result": result, "error": error, "exit_code": exit_code})


main()
