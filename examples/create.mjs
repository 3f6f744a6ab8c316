// Builds the template `py`: Python, with something in its memory that every child will have.
//   node examples/create.mjs
import { Snapshot } from '@forkd/sdk';

const { snapshot, times } = await Snapshot.create(
  { tag: 'py', source: 'python', warm: 'import json; squares = [n * n for n in range(1000)]', mem_mib: 256 },
  { onProgress: (event) => console.log(`${event.stage}: ${event.message}`) },
);
console.log(`${snapshot.tag} is ${snapshot.info.status}, booted in ${Math.round(times.boot_ms)} ms`);
