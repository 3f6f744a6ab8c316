// Asks the warmed interpreter, which has what the template was warmed with and keeps what it is told.
//   node examples/eval.mjs
import { Sandbox } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
await sandbox.eval('total = sum(squares)');
const { result } = await sandbox.eval('json.dumps({"total": total})');
const { error } = await sandbox.eval('1 / 0', { timeoutMs: 5_000 });
console.log(result, error.trim().split('\n').at(-1));
await sandbox.kill();
