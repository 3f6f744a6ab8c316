// Evaluates code in the warm interpreter, which has the state of the template and keeps new state.
//   node examples/eval.mjs
import { Sandbox } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
await sandbox.eval('total = sum(squares)');
const { result } = await sandbox.eval('json.dumps({"total": total})');
const { error } = await sandbox.eval('1 / 0', { timeoutMs: 5_000 });
console.log(result, error); // `traceback` has the rest of the error
await sandbox.kill();
