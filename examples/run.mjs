// Runs commands: to their end, in the background, with input, and with a timeout.
//   node examples/run.mjs
import { Sandbox } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');

const ran = await sandbox.commands.run(['python3', '-c', 'import sys; print("out"); sys.exit(7)']);
console.log(ran.stdout.trim(), ran.exitCode); // an exit code is a result, not an error

const slow = await sandbox.commands.run('echo so far; sleep 1000', { timeoutMs: 1_000 });
console.log(slow.stdout.trim(), slow.timedOut);

const { id } = await sandbox.commands.start('cat', { stdin: true }); // continues when this program ends
await sandbox.commands.sendStdin(id, 'from far away', { close: true });
const { stdout } = await (await sandbox.commands.attach(id)).wait();
console.log(stdout);

await sandbox.commands.kill(id);
await sandbox.kill();
