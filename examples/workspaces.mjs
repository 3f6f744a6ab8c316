// Suspends a workspace and resumes it later, with everything that was in its memory.
//   node examples/workspaces.mjs
import { Workspace } from '@forkd/sdk';

const workspace = await Workspace.create('mine', 'py');
await (await workspace.sandbox()).eval('notes = ["remember this"]');
console.log((await workspace.suspend()).info.status); // on disk; no machine runs

await workspace.resume();
const { result } = await (await workspace.sandbox()).eval('notes');
console.log(result);
await workspace.delete();
