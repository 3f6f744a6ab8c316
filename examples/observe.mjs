// Shows the resource usage and the console of a sandbox.
//   node examples/observe.mjs
import { Sandbox } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
const { private_bytes, shared_bytes, cpu_secs } = await sandbox.stats();
console.log(private_bytes < shared_bytes, cpu_secs > 0); // most of its memory is shared with its template

for await (const text of sandbox.logs({ tailBytes: 4_096 })) process.stdout.write(text);
await sandbox.kill();
