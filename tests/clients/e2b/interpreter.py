"""Calls the methods of the PyPI package `e2b-code-interpreter`, as methods.py does for `e2b`."""

import base64
import sys

import e2b
from calls import call_all, raises
from e2b_code_interpreter import Sandbox

TEMPLATE = sys.argv[1]
FIGURE = 'import matplotlib.pyplot as plt\nplt.bar(["a", "b"], [1, 2]); plt.title("T"); plt.show()\n"done"'
sandbox: Sandbox


def create():
    global sandbox
    sandbox = Sandbox.create(TEMPLATE, envs={"MINE": "mine"})


def run_code():
    streamed = []
    execution = sandbox.run_code('x = 20\nprint("out")\nx + 1', on_stdout=lambda message: streamed.append(message.line))
    assert (execution.text, execution.logs.stdout, execution.execution_count) == ("21", ["out\n"], 1)
    assert streamed == ["out\n"]
    assert sandbox.run_code("x * 2").text == "40"
    logs = sandbox.run_code("!echo from a program; echo wrong >&2").logs
    assert (logs.stdout, logs.stderr) == (["from a program\n"], ["wrong\n"])
    code = 'import os; [os.environ[name] for name in ("MINE", "YOURS")]'
    assert sandbox.run_code(code, envs={"YOURS": "y"}).text == "['mine', 'y']"
    raises(e2b.SandboxException, lambda: sandbox.run_code("1", language="r"))


def errors():
    error = sandbox.run_code("def f():\n  return 1 / 0\nf()").error
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert 'line 2, in f' in error.traceback
    raises(e2b.TimeoutException, lambda: sandbox.run_code("import time; time.sleep(60)", timeout=1.5))
    assert sandbox.run_code("x").text == "20"
    assert sandbox.run_code("import os; os._exit(3)").error.name == "ContextEnded"
    assert sandbox.run_code("2 + 2").text == "4"


def charts():
    execution = sandbox.run_code(FIGURE)
    assert execution.error is None, execution.error
    [figure] = [result for result in execution.results if result.png]
    assert base64.b64decode(figure.png)[1:4] == b"PNG"
    bars = [(bar.label, bar.value) for bar in figure.chart.elements]
    assert (figure.chart.type.value, figure.chart.title, bars) == ("bar", "T", [("a", 1), ("b", 2)])
    assert execution.text == "done"
    html = 'class Page:\n  def _repr_html_(self):\n    return "<b>x</b>"\nPage()'
    assert sandbox.run_code(html).results[0].html == "<b>x</b>"


def contexts():
    context = sandbox.create_code_context(cwd="/tmp")
    assert (context.language, context.cwd) == ("python", "/tmp")
    sandbox.run_code('x = "of the context"', context=context)
    assert sandbox.run_code("x", context=context).text == "of the context"
    assert sandbox.run_code("2 + 2").text == "4"
    assert context.id in [one.id for one in sandbox.list_code_contexts()]
    sandbox.restart_code_context(context.id)
    assert sandbox.run_code("x", context=context).error.name == "NameError"
    sandbox.remove_code_context(context.id)
    raises(e2b.NotFoundException, lambda: sandbox.run_code("1", context=context))


def fork():
    sandbox.run_code('state = "inherited"')
    [child] = sandbox.fork()
    assert child.run_code("state").text == "inherited"
    child.kill()
    assert sandbox.run_code("state").text == "inherited"
    sandbox.kill()


METHODS = {
    "Sandbox.create, of the interpreter": create,
    "runCode": run_code,
    "runCode, errors": errors,
    "runCode, charts and images": charts,
    "createCodeContext, listCodeContexts, restart, remove": contexts,
    "fork, with the state of the interpreter": fork,
}

call_all(METHODS)
