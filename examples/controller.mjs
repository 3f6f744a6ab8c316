// Shows code that was written for forkd's earlier SDK. Only its import has changed.
//   node examples/controller.mjs
import { Controller, ControllerError, Sandbox } from '@forkd/sdk/compat';

const controller = new Controller(); // FORKD_URL, FORKD_TOKEN
const [info] = await controller.spawnSandboxes({ snapshotTag: 'py', n: 1, liveFork: true });
const { stdout, exit_code } = await controller.execCommand(info.id, ['python3', '-c', 'print(2 + 2)']);
const branch = await controller.branchSandbox(info.id, { tag: 'compat', mode: 'live' });
console.log(stdout.trim(), exit_code, branch.branched_from === info.id);

await controller.killSandbox(info.id);
await controller.deleteSnapshot('compat');
const error = await controller.getSandbox(info.id).catch((reason) => reason);
console.log(error instanceof ControllerError, error.status);

console.log(await Sandbox.with({ snapshotTag: 'py' }, (sandbox) => sandbox.eval('1 + 1')));
