"""A warm Python interpreter: evaluates what the agent sends, one request after the other, and keeps its state in between.

Arguments: the numbers of four inherited descriptors. Requests come and responses go as one JSON object per line. Only
`os._exit` and signals end the interpreter; an exception never does. A seed of 32 bytes comes on the third, announced by a
signal, so that it is taken at once even while an evaluation runs; one byte on the fourth says that it was.

A fifth argument names the generation page. Its number is another one from the first instruction of a forked machine on,
which is before that machine's seed comes: `random` looks there at each draw, everything else at the start of an evaluation.
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
ERROR_CHARS_MAX = 1 << 10
SOURCES_MAX = 256
# Room for the driver's own calls, whatever limit the evaluated program has set for itself.
RECURSION_MIN = 1000
# How often the driver starts again to guard signal handlers while one of them raises.
ATTEMPTS_MAX = 10

PAGE_MAGIC = b"FORKD GENERATION"
PAGE_NUMBER = slice(16, 24)

evaluating = False
cut = False
recursion_limit = sys.getrecursionlimit()


class Generation:
    """Which machine this is, as the generation page says."""

    def __init__(self, path):
        self.page = bytes(24)
        try:
            import mmap

            with open(path, "rb") as file:
                page = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            if page[:16] == PAGE_MAGIC:
                self.page = page
        except (ImportError, OSError, ValueError):
            # A machine without such a page has its seeds from the agent alone.
            pass
        self.seen = self.page[PAGE_NUMBER]

    def reseed_if_changed(self):
        """The kernel's own generator is the forked machine's from the start."""
        number = self.page[PAGE_NUMBER]
        if number != self.seen:
            self.seen = number
            reseed(os.urandom(SEED_BYTES))


def watch_random(generation):
    """Lets the generator behind the functions of `random` look at the generation before each draw."""
    try:
        import random
    except ImportError:
        return
    shared = random._inst

    class Watched(random.Random):
        def random(self):
            generation.reseed_if_changed()
            return super().random()

        def getrandbits(self, bits):
            generation.reseed_if_changed()
            return super().getrandbits(bits)

    watched = Watched()
    for name, value in list(vars(random).items()):
        if getattr(value, "__self__", None) is shared:
            setattr(random, name, getattr(watched, name))
    random._inst = watched
    os.register_at_fork(after_in_child=watched.seed)


def text_of(value):
    """Text that is valid UTF-8 whatever lone surrogates stand in it, and not longer than a response may be."""
    global cut
    value = str(value)
    if len(value) > RESULT_CHARS_MAX:
        cut = True
        value = value[:RESULT_CHARS_MAX] + "... (cut)"
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def remember_source(name, number, source):
    """Lets tracebacks show the lines of what was evaluated, of the latest evaluations."""
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    linecache.cache.pop("<eval-%d>" % (number - SOURCES_MAX), None)


def evaluate(source, name, namespace):
    """Runs the statements; the value of a last expression is the result. Gives the fields of the response."""
    global evaluating
    try:
        evaluating = True
        result = run(source, name, namespace)
        evaluating = False
        outcome = {"result": result, "error": None, "traceback": None, "exit_code": 0}
    except BaseException as error:
        evaluating = False
        try:
            outcome = describe(error)
        except BaseException:
            sentence = "An exception that cannot be described."
            outcome = {"result": None, "error": sentence, "traceback": None, "exit_code": 1}
    guard_signal_handlers()
    return outcome


def run(source, name, namespace):
    global recursion_limit
    tree = ast.parse(source, name)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = compile(ast.Expression(tree.body.pop().value), name, "eval", dont_inherit=True)
    statements = compile(tree, name, "exec", dont_inherit=True)
    sys.setrecursionlimit(recursion_limit)
    try:
        exec(statements, namespace)
        return None if last is None else text_of(repr(eval(last, namespace)))
    finally:
        recursion_limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(recursion_limit, RECURSION_MIN))


class GuardedHandler:
    """A signal handler of the evaluated program. Between two evaluations nobody would catch what it raises."""

    def __init__(self, handler):
        self.handler = handler

    def __call__(self, number, frame):
        try:
            self.handler(number, frame)
        except BaseException:
            if evaluating:
                raise


def guard_signal_handlers():
    for _ in range(ATTEMPTS_MAX):
        try:
            for number in range(1, signal.NSIG):
                handler = signal.getsignal(number)
                if callable(handler) and not isinstance(handler, GuardedHandler):
                    signal.signal(number, GuardedHandler(handler))
            return
        except BaseException:
            # A handler that is not guarded yet has raised.
            continue


def describe(error):
    """The fields of the response to an evaluation that raised. The methods of the exception may raise in turn."""
    fields = {"result": None, "error": None, "traceback": None, "exit_code": 1}
    if isinstance(error, SystemExit):
        code = error.code
        fields["exit_code"] = int(code) & 0xFF if isinstance(code, int) else int(code is not None)
        if fields["exit_code"] != 0:
            fields["error"] = sentence_of("SystemExit", code)
        return fields
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = "%s.%s" % (kind.__module__, name)
    fields["error"] = sentence_of(name, error)
    frames = error.__traceback__
    # The first frames are the driver's own.
    while frames and frames.tb_frame.f_code in (evaluate.__code__, run.__code__):
        frames = frames.tb_next
    # Of a syntax error in the request the frames are all the parser's.
    if isinstance(error, SyntaxError) and str(error.filename).startswith("<eval-"):
        frames = None
    try:
        fields["traceback"] = text_of("".join(traceback.format_exception(kind, error, frames)))
    except BaseException:
        fields["traceback"] = text_of("".join(traceback.format_tb(frames))) + fields["error"]
    return fields


def sentence_of(name, value):
    """What Python says in the last line of a traceback, in one line."""
    try:
        text = text_of(value).strip()
    except BaseException:
        text = "(it cannot be printed)"
    line = text.split("\n", 1)[0][:ERROR_CHARS_MAX]
    return "%s: %s" % (name, line) if line else name


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


def respond(responses, response):
    flush()
    responses.write(json.dumps(response) + "\n")
    responses.flush()


def close(descriptors):
    for number in descriptors:
        try:
            os.close(number)
        except OSError:
            # The evaluated program has closed it.
            pass


def end_fork(outcome):
    """Ends a process that an evaluation forked, as the end of a script would: only its parent answers."""
    try:
        sys.stderr.write(outcome["traceback"] or outcome["error"] or "")
        flush()
    finally:
        os._exit(outcome["exit_code"])


def main():
    global cut
    descriptors = [int(number) for number in sys.argv[1:5]]
    for number in descriptors:
        os.set_inheritable(number, False)
    requests = os.fdopen(descriptors[0], "r", encoding="utf-8")
    responses = os.fdopen(descriptors[1], "w", encoding="utf-8")
    os.set_blocking(descriptors[2], False)
    # A forked process has no part in the exchange with the agent.
    os.register_at_fork(after_in_child=lambda: close(descriptors))
    generation = Generation(sys.argv[5])
    watch_random(generation)
    signal.signal(RESEED_SIGNAL, on_reseed(descriptors[2], descriptors[3]))
    signal.signal(signal.SIGINT, on_interrupt)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.argv = [""]
    sys.path.insert(0, "")
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module

    respond(responses, {"ready": True})
    process = os.getpid()
    for number, line in enumerate(requests, 1):
        source = json.loads(line)["code"]
        name = "<eval-%d>" % number
        remember_source(name, number, source)
        cut = False
        generation.reseed_if_changed()
        outcome = evaluate(source, name, module.__dict__)
        if os.getpid() != process:
            end_fork(outcome)
        respond(responses, {**outcome, "cut": cut})


main()
