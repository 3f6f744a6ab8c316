// The first few minutes: a sandbox, a command in it, and children that go on from where it is.
//   node examples/readme.mjs        (needs a template `py`, as examples/create.mjs makes it)
import { Sandbox } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
const { stdout, exitCode } = await sandbox.commands.run('echo $((6 * 7))');
const children = await sandbox.fork(3); // go on from this instant, while the sandbox runs on
console.log(`${stdout.trim()}, exit code ${exitCode}, ${children.length} children`);

for (const one of [sandbox, ...children]) await one.kill(); // false when it was gone already
