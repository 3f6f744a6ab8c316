// A fork with a memory limit where no cgroup is, as `memory-limit.test.ts` asks: run in a mount namespace without any. Prints
// what it has seen as one line of JSON.
import { forkOne, TestController } from '@forkd/testing';

const controller = await TestController.start({ template: true });
try {
  const { client } = controller;
  const { isolation } = (await client.host()).engine;
  const refused = await client.createSandboxes({ snapshot_tag: 'base', memory_limit_mib: 128 }).then(
    () => 'runs',
    ({ code, status, message }) => ({ code, status, message }),
  );
  const unlimited = await forkOne(client);
  const { memory_limit_mib } = await client.getSandbox(unlimited);
  process.stdout.write(`${JSON.stringify({ isolation, refused, memory_limit_mib })}\n`);
} finally {
  await controller[Symbol.asyncDispose]();
}
