// Finds the controller of this host, or starts it.
//   node examples/local.mjs
import { Snapshot } from '@forkd/sdk';
import { ensureController } from '@forkd/sdk/local';

const { client, started } = await ensureController({ autostart: true });
const snapshots = await Snapshot.list({ client });
console.log(`${started ? 'started' : 'found'} the controller at ${client.place}: ${snapshots.length} snapshots`);
