/** The program that runs the cells of one context in a guest. The controller puts it there on first use. */
export const INTERPRETER_PROGRAM = String.raw`"""Runs the cells of one context of E2B's code interpreter in a guest.

A request is a line of JSON on standard input: id, code and env. Replies are lines of JSON on standard output, each with
the id of its request; the last has the type end. SIGINT interrupts the cell that runs.
"""

import ast
import asyncio
import base64
import builtins
import importlib.machinery
import inspect
import io
import json
import linecache
import math
import os
import signal
import struct
import sys
import termios
import threading
import time
import traceback
import types
from fcntl import ioctl

MIME_FIELDS = {
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
}
REPR_METHODS = {
    "_repr_html_": "html",
    "_repr_markdown_": "markdown",
    "_repr_svg_": "svg",
    "_repr_png_": "png",
    "_repr_jpeg_": "jpeg",
    "_repr_pdf_": "pdf",
    "_repr_latex_": "latex",
    "_repr_json_": "json",
    "_repr_javascript_": "javascript",
}
DRAIN_SECS_MAX = 1.0

# Programs that a cell starts write to descriptors 1 and 2, which are pipes from here on. Replies go to a copy of the first.
requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
replies = os.dup(1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
lock = threading.Lock()
request_id = None


def send(**reply):
    line = json.dumps(finite({"id": request_id, **reply}), default=str).encode() + b"\n"
    with lock:
        while line:
            line = line[os.write(replies, line) :]


def finite(value):
    """The value with null for each number that JSON has no word for."""
    if isinstance(value, dict):
        return {str(name): finite(field) for name, field in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def send_text(kind, text):
    if text:
        send(type=kind, text=text, timestamp=time.time_ns() // 1000)


class Printed(io.TextIOBase):
    """A stream of Python whose text is sent as it is printed, a line at a time."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, kind, descriptor):
        self.kind, self.descriptor, self.held = kind, descriptor, ""

    def writable(self):
        return True

    def fileno(self):
        return self.descriptor

    def write(self, text):
        whole, line_end, rest = (self.held + text).rpartition("\n")
        self.held = rest
        send_text(self.kind, whole + line_end)
        return len(text)

    def flush(self):
        text, self.held = self.held, ""
        send_text(self.kind, text)


class PrintedByPrograms(threading.Thread):
    """Sends what programs write to a descriptor."""

    def __init__(self, kind, descriptor):
        super().__init__(daemon=True)
        self.kind, self.is_idle = kind, True
        self.source, end = os.pipe()
        os.dup2(end, descriptor)
        os.close(end)
        self.start()

    def run(self):
        while True:
            data = os.read(self.source, 65536)
            send_text(self.kind, data.decode(errors="replace"))
            self.is_idle = True

    def drain(self):
        deadline = time.monotonic() + DRAIN_SECS_MAX
        while time.monotonic() < deadline:
            waiting = struct.unpack("i", ioctl(self.source, termios.FIONREAD, b"\0\0\0\0"))[0]
            if waiting == 0 and self.is_idle:
                return
            self.is_idle = waiting == 0
            time.sleep(0.002)


def described(value):
    """The forms of a value by E2B's names, with the text that Python shows."""
    # The text of a text is shown without quotes, as E2B does.
    fields = {"text": value if isinstance(value, str) else repr(value)}
    bundle = getattr(value, "_repr_mimebundle_", None)
    if callable(bundle) and not isinstance(value, type):
        shown = bundle()
        shown = shown[0] if isinstance(shown, tuple) else shown
        for mime, content in (shown or {}).items():
            if mime in MIME_FIELDS:
                fields[MIME_FIELDS[mime]] = text_of(content)
    for method, field in REPR_METHODS.items():
        shower = None if isinstance(value, type) else getattr(value, method, None)
        if not callable(shower) or field in fields:
            continue
        content = shower()
        content = content[0] if isinstance(content, tuple) else content
        if content is not None:
            fields[field] = content if field == "json" else text_of(content)
    if type(value).__name__ == "DataFrame" and callable(getattr(value, "to_dict", None)):
        fields["data"] = value.to_dict(orient="list")
    return fields


def text_of(content):
    return base64.b64encode(content).decode() if isinstance(content, bytes) else content


def display(*values, **_options):
    """Shows values as results, as notebooks do."""
    for value in values:
        sys.stdout.flush()
        send(type="result", is_main_result=False, **described(value))


def show_figures(*_args, **_options):
    """Sends the open figures of Matplotlib, and closes them."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    for number in pyplot.get_fignums() if pyplot else []:
        figure = pyplot.figure(number)
        image = io.BytesIO()
        figure.savefig(image, format="png", bbox_inches="tight")
        fields = {"text": repr(figure), "png": base64.b64encode(image.getvalue()).decode()}
        try:
            fields["chart"] = chart_of(figure)
        except Exception:  # A figure that cannot be described is still an image.
            pass
        send(type="result", is_main_result=False, **fields)
        pyplot.close(figure)


def chart_of(figure):
    charts = [chart_of_axes(axes) for axes in figure.axes]
    if len(charts) == 1:
        return charts[0]
    title = figure._suptitle.get_text() if figure._suptitle else None
    return {"type": "superchart", "title": title, "elements": charts}


def chart_of_axes(axes):
    from matplotlib.container import BarContainer
    from matplotlib.patches import Wedge

    chart = {"type": "unknown", "title": axes.get_title() or None, "elements": []}
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    lines = axes.get_lines()
    scatters = [one for one in axes.collections if hasattr(one, "get_offsets")]
    if wedges:
        slices = [
            {"label": one.get_label(), "angle": abs(one.theta2 - one.theta1), "radius": one.r} for one in wedges
        ]
        return {**chart, "type": "pie", "elements": slices}
    chart |= {"x_label": axes.get_xlabel() or None, "y_label": axes.get_ylabel() or None, "x_unit": None, "y_unit": None}
    if getattr(axes, "forkd_boxes", None):
        return {**chart, "type": "box_and_whisker", "elements": axes.forkd_boxes}
    if bars:
        return {**chart, "type": "bar", "elements": [bar for one in bars for bar in bars_of(axes, one)]}
    if not lines and not scatters:
        return chart
    for name, axis, scale in (("x", axes.xaxis, axes.get_xscale()), ("y", axes.yaxis, axes.get_yscale())):
        ticks = [float(tick) for tick in axis.get_ticklocs()]
        labels = [label.get_text() for label in axis.get_ticklabels()]
        chart |= {f"{name}_ticks": ticks, f"{name}_tick_labels": labels, f"{name}_scale": scale}
    if lines:
        points = [(line.get_label(), zip(plain(line.get_xdata()), plain(line.get_ydata()))) for line in lines]
    else:
        points = [(one.get_label(), (plain(offset) for offset in one.get_offsets())) for one in scatters]
    elements = [{"label": label, "points": [list(point) for point in series]} for label, series in points]
    return {**chart, "type": "line" if lines else "scatter", "elements": elements}


def bars_of(axes, container):
    upright = container.orientation != "horizontal"
    axis = axes.xaxis if upright else axes.yaxis
    labels = [label.get_text() for label in axis.get_ticklabels()]
    for index, bar in enumerate(container):
        place = bar.get_x() + bar.get_width() / 2 if upright else bar.get_y() + bar.get_height() / 2
        label = labels[index] if index < len(labels) and labels[index] else str(place)
        value = bar.get_height() if upright else bar.get_width()
        yield {"label": label, "group": container.get_label(), "value": float(value)}


def plain(values):
    return [getattr(value, "item", lambda value=value: value)() for value in values]


def keep_boxes(bxp):
    """Notes what a box plot shows, which cannot be told from its lines."""

    def wrapped(axes, stats, *args, **options):
        axes.forkd_boxes = [
            {
                "label": str(box.get("label", "")),
                "min": float(box["whislo"]),
                "first_quartile": float(box["q1"]),
                "median": float(box["med"]),
                "third_quartile": float(box["q3"]),
                "max": float(box["whishi"]),
                "outliers": plain(box.get("fliers", [])),
            }
            for box in stats
        ]
        return bxp(axes, stats, *args, **options)

    return wrapped


class Backend:
    """Draws for Matplotlib as Agg does, and sends the figures that are shown. It is loaded with the first figure."""

    NAME = "forkd_figures"

    def find_spec(self, name, _path, _target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == self.NAME else None

    def create_module(self, _spec):
        return None

    def exec_module(self, module):
        from matplotlib.axes import Axes
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        Axes.bxp = keep_boxes(Axes.bxp)
        module.FigureCanvas, module.show = FigureCanvasAgg, show_figures

    def install(self):
        sys.meta_path.insert(0, self)
        os.environ["MPLBACKEND"] = f"module://{self.NAME}"


def without_magic(code):
    """Turns !command and %pip into calls, as notebooks do, in code that is not Python otherwise."""
    lines = []
    for line in code.split("\n"):
        bare = line.lstrip()
        indent = line[: len(line) - len(bare)]
        if bare.startswith("%pip "):
            bare = f"!{sys.executable} -m {bare[1:]}"
        if bare.startswith("!"):
            line = f"{indent}__import__('subprocess').run({bare[1:]!r}, shell=True)"
        elif bare.startswith("%"):
            line = f"{indent}pass"
        lines.append(line)
    return "\n".join(lines)


def parsed(code, name):
    try:
        return ast.parse(code, name)
    except SyntaxError:
        plain_code = without_magic(code)
        if plain_code == code:
            raise
        return ast.parse(plain_code, name)


class Context:
    def __init__(self):
        self.module = types.ModuleType("__main__")
        self.names = self.module.__dict__
        self.names["display"] = builtins.display = display
        sys.modules["__main__"] = self.module
        self.count = 0
        self.is_running = False
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)

    def interrupt(self, *_signal):
        if self.is_running:
            raise KeyboardInterrupt

    def run(self, code, env):
        self.count += 1
        name = f"<cell {self.count}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        before = dict(os.environ)
        os.environ.update(env)
        try:
            self.is_running = True
            self.run_cell(parsed(code, name), name)
            show_figures()
        except BaseException as error:
            self.is_running = False
            self.send_error(error, name)
        finally:
            self.is_running = False
            for variable in env:
                os.environ.pop(variable, None)
                if variable in before:
                    os.environ[variable] = before[variable]
            sys.stdout.flush()
            sys.stderr.flush()
            for programs in written_by_programs:
                programs.drain()
        send(type="number_of_executions", execution_count=self.count)

    def run_cell(self, tree, name):
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self.evaluate(compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
        if last is None:
            return
        value = self.evaluate(compile(ast.Expression(last.value), name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
        if value is None:
            return
        self.names["_"] = value
        sys.stdout.flush()
        send(type="result", is_main_result=True, **described(value))

    def evaluate(self, code):
        value = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            return self.loop.run_until_complete(value)
        return value

    def send_error(self, error, name):
        sys.stdout.flush()
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != name:
            frames = frames.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames))
        send(type="error", name=type(error).__name__, value=str(error), traceback=text)


written_by_programs = [PrintedByPrograms("stdout", 1), PrintedByPrograms("stderr", 2)]
sys.stdout, sys.stderr = Printed("stdout", 1), Printed("stderr", 2)
Backend().install()
context = Context()
signal.signal(signal.SIGINT, context.interrupt)
for line in requests:
    request = json.loads(line)
    request_id = request["id"]
    context.run(request["code"], request["env"])
    send(type="end")
`;
