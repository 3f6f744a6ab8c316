// Calls the methods of the npm package `@e2b/code-interpreter`, as methods.mjs does for `e2b`.
import assert from 'node:assert/strict';
import { Sandbox } from '@e2b/code-interpreter';
import { callAll } from './calls.mjs';

const [, , template] = process.argv;
/** @type {Sandbox} */
let sandbox;
const FIGURE = 'import matplotlib.pyplot as plt\nplt.bar(["a", "b"], [1, 2]); plt.title("T"); plt.show()\n"done"';
const methods = {
  async 'Sandbox.create, of the interpreter'() {
    sandbox = await Sandbox.create(template, { envs: { MINE: 'mine' } });
  },
  async runCode() {
    const streamed = [];
    const { results, logs, text, executionCount } = await sandbox.runCode('x = 20\nprint("out")\nx + 1', {
      onStdout: ({ line }) => streamed.push(line),
    });
    assert.deepEqual([results.length, logs, text, executionCount], [1, { stdout: ['out\n'], stderr: [] }, '21', 1]);
    assert.deepEqual(streamed, ['out\n']);
    assert.equal((await sandbox.runCode('x * 2')).text, '40');
    const { logs: shell } = await sandbox.runCode('!echo from a program; echo wrong >&2');
    assert.deepEqual(shell, { stdout: ['from a program\n'], stderr: ['wrong\n'] });
    const env = await sandbox.runCode('import os; [os.environ[name] for name in ("MINE", "YOURS")]', {
      envs: { YOURS: 'y' },
    });
    assert.equal(env.text, "['mine', 'y']");
    await assert.rejects(sandbox.runCode('1', { language: 'r' }), /501/);
  },
  async 'runCode, errors'() {
    const { error } = await sandbox.runCode('def f():\n  return 1 / 0\nf()');
    assert.deepEqual([error.name, error.value], ['ZeroDivisionError', 'division by zero']);
    assert.match(error.traceback, /<cell \d+>", line 2, in f/);
    await assert.rejects(sandbox.runCode('import time; time.sleep(60)', { timeoutMs: 1500 }), { name: 'TimeoutError' });
    assert.equal((await sandbox.runCode('x')).text, '20');
    const { error: ended } = await sandbox.runCode('import os; os._exit(3)');
    assert.equal(ended.name, 'ContextEnded');
    assert.equal((await sandbox.runCode('2 + 2')).text, '4');
  },
  async 'runCode, charts and images'() {
    const { results, text, error } = await sandbox.runCode(FIGURE, { timeoutMs: 300_000 });
    assert.equal(error, undefined);
    const [{ png, chart }] = results.filter((result) => result.png);
    assert.ok(Buffer.from(png, 'base64').subarray(1, 4).equals(Buffer.from('PNG')));
    assert.deepEqual(
      [chart.type, chart.title, chart.elements.map(({ label, value }) => [label, value])],
      [
        'bar',
        'T',
        [
          ['a', 1],
          ['b', 2],
        ],
      ],
    );
    assert.equal(text, 'done');
    const html = 'class Page:\n  def _repr_html_(self):\n    return "<b>x</b>"\nPage()';
    assert.equal((await sandbox.runCode(html)).results[0].html, '<b>x</b>');
  },
  async 'createCodeContext, listCodeContexts, restart, remove'() {
    const context = await sandbox.createCodeContext({ cwd: '/tmp' });
    assert.deepEqual([context.language, context.cwd], ['python', '/tmp']);
    await sandbox.runCode('x = "of the context"', { context });
    assert.equal((await sandbox.runCode('x', { context })).text, 'of the context');
    assert.equal((await sandbox.runCode('2 + 2')).text, '4');
    assert.ok((await sandbox.listCodeContexts()).some(({ id }) => id === context.id));
    await sandbox.restartCodeContext(context.id);
    assert.equal((await sandbox.runCode('x', { context })).error.name, 'NameError');
    await sandbox.removeCodeContext(context.id);
    await assert.rejects(sandbox.runCode('1', { context }), { name: 'NotFoundError' });
  },
  async 'fork, with the state of the interpreter'() {
    await sandbox.runCode('state = "inherited"');
    const [child] = await sandbox.fork();
    assert.equal((await child.runCode('state')).text, 'inherited');
    await child.kill();
    assert.equal((await sandbox.runCode('state')).text, 'inherited');
    await sandbox.kill();
  },
};

await callAll(methods);
