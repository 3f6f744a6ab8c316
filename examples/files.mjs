// Writes, reads, lists, renames and removes files in a sandbox.
//   node examples/files.mjs
import { Sandbox } from '@forkd/sdk';

const sandbox = await Sandbox.create('py');
const { files } = sandbox;

await files.write('/srv/app/main.py', 'print("hello")\n', { mode: '0755' }); // creates the directories, too
console.log(await files.read('/srv/app/main.py'));
for (const { name, type, size } of await files.list('/srv/app')) console.log(name, type, size);
await files.makeDir('/srv/app/data');
await files.rename('/srv/app/data', '/srv/app/logs');
console.log((await files.stat('/srv/app/logs')).type);

const changes = files.watch('/srv/app', { recursive: true });
await changes.next(); // the first event is `ready`: what happens after it is reported
await files.write('/srv/app/logs/today', 'started\n');
for await (const { type, path } of changes) {
  console.log(type, path);
  break; // or read on, for as long as the sandbox lives
}

let bytes = 0;
for await (const chunk of files.readStream('/usr/bin/python3')) bytes += chunk.length; // of any size
console.log(bytes > 0);

console.log(await files.remove('/srv/app', { recursive: true }), await files.exists('/srv/app/main.py'));
await sandbox.kill();
