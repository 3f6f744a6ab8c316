// Looks at snapshots, flattens one, and removes those that are old.
//   node examples/snapshots.mjs
import { Sandbox, Snapshot } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
const branch = await sandbox.branch({ tag: 'deep', until: 'durable' });
await sandbox.kill();
const { ancestors, memory_physical_bytes } = await branch.detail();
console.log(ancestors, memory_physical_bytes > 0);

const flat = await branch.compact('flat'); // needs none of its ancestors
console.log((await flat.detail()).ancestors);

const { removed } = await Snapshot.prune({ keep: 0 }); // of the branches of each template; `olderThanMs` goes by age
console.log(removed.includes('deep'));
await Snapshot.delete('flat');
