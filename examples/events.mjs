// Follows events, and continues where it was if the connection is lost.
//   node examples/events.mjs
import { Events, Sandbox } from '@forkd/sdk';

const busy = setInterval(async () => (await Sandbox.create('py')).kill(), 500);

const events = new Events({ signal: AbortSignal.timeout(60_000) }); // { sandbox: id }: only events of one sandbox
for await (const { type, sandbox } of events) {
  console.log(type, sandbox);
  if (type === 'sandbox.ended') break;
}
clearInterval(busy);
