// Sets the time to live of a sandbox, pauses it, and finds it again by its name and its labels.
//   node examples/pause.mjs
import { Sandbox } from '@forkd/sdk';

const labels = { team: 'blue' };
const sandbox = await Sandbox.create('py', { name: 'web', labels, timeoutMs: 60_000, onTimeout: 'pause' });
await sandbox.setTimeout(3_600_000); // an hour from now; null: until it is killed

await sandbox.pause(); // keeps its memory, uses no processor time
console.log(await sandbox.isRunning(), (await Sandbox.list({ labels, state: 'paused' })).length);

const again = await Sandbox.connect('web'); // does not resume it
await again.resume();
console.log(await again.isRunning(), (await again.ping()).pong);
await Sandbox.kill('web');
