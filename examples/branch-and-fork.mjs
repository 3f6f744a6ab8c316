// Branches a running sandbox, starts children from the branch, and cleans up.
//   node examples/branch-and-fork.mjs
import { Sandbox } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
await sandbox.eval('x = 1');
const before = await sandbox.branch({ tag: 'before' }); // the sandbox keeps running
await sandbox.eval('x = 2');

const children = await before.fork(2);
for (const child of children) await child.eval('x += 10');
const values = await Promise.all([sandbox, ...children].map((one) => one.eval('x')));
console.log(values.map(({ result }) => result));

await Promise.all([sandbox, ...children].map((one) => one.kill()));
await before.waitUntil('durable'); // the branch could be forked before; now it is on disk
console.log(await before.delete(), await before.delete());
