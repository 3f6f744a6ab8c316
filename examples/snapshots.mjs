// Lists snapshots, compacts one, and prunes old ones.
//   node examples/snapshots.mjs
import { Sandbox, Snapshot } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
const branch = await sandbox.branch({ tag: 'deep', until: 'durable' });
await sandbox.kill();
const { ancestors, memory_physical_bytes } = await branch.detail();
console.log(ancestors, memory_physical_bytes > 0);

const flat = await branch.compact('flat'); // needs none of its ancestors
console.log((await flat.detail()).ancestors);

const { removed } = await Snapshot.prune({ keep: 0 }); // keeps no branch of any template; `olderThanMs` prunes by age
console.log(removed.includes('deep'));
await Snapshot.delete('flat');
