// Branches a sandbox while a command counts in it, and shows that the count continues in a child.
//   node examples/branch.mjs TAG
// TAG is a template, as `forkd from-image` makes it. The program starts a controller if none is running.
import { Sandbox } from '@forkd/sdk';
import { ensureController } from '@forkd/sdk/local';

const { client } = await ensureController({ autostart: true });
const sandbox = await Sandbox.create(process.argv[2] ?? 'py', { client });
const counter = await sandbox.commands.start('n=0; while sleep 0.1; do n=$((n+1)); echo $n; done');

await until(async () => (await countIn(sandbox)) >= 5);
const { tag } = await sandbox.branch();
const child = await Sandbox.create(tag, { client });
const atBirth = await countIn(child);
await until(async () => (await countIn(child)) > atBirth);
console.log(`the source has counted to ${await countIn(sandbox)}, its child went on from ${atBirth}`);

await child.kill();
await sandbox.kill();
await client.deleteSnapshot(tag);

/** The last number that the counter has printed in `where`. A child has the command under the same id. */
async function countIn(where) {
  let text = '';
  for await (const event of client.commandOutput(where.id, counter.id, { follow: false })) {
    if (event.type === 'stdout') text += Buffer.from(event.data, 'base64').toString();
  }
  return Number(text.trim().split('\n').at(-1));
}

async function until(condition) {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 50));
}
