// The first few minutes: a sandbox, a command in it, and children that continue from there.
//   node examples/readme.mjs        (needs a template `py`, as examples/create.mjs makes it)
import { Sandbox } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
const { stdout, exitCode } = await sandbox.commands.run('echo $((6 * 7))');
const children = await sandbox.fork(3); // continue from this instant, while the sandbox keeps running
console.log(`${stdout.trim()}, exit code ${exitCode}, ${children.length} children`);

for (const one of [sandbox, ...children]) await one.kill(); // false if it was already gone
