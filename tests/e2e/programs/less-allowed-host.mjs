// A life of VMs where less is allowed than root has, as `isolation.test.ts` asks: run under setpriv, which takes it from pager,
// engine and VMMs alike. Prints what it has seen as one line of JSON.
import { readFile } from 'node:fs/promises';
import { Lab, sh } from '@forkd/testing';

const lab = await Lab.start({ poolMax: 1 });
try {
  const template = await lab.template();
  const child = await lab.fork(template);
  const branches = {};
  for (const mode of ['live', 'diff']) {
    branches[mode] = await lab.branch(child, { mode, audit: true }).then(
      ({ audit }) => audit.differing_pages,
      ({ code }) => code,
    );
  }
  await lab.fill(template, 1);
  const pooled = await lab.fork(template);
  const answers = [await sh(child.agent, 'echo here'), await sh(pooled.agent, 'echo here')];
  const limited = await lab.restore(template, { memoryLimitMib: 512 }).then(
    () => 'runs',
    ({ code, message }) => ({ code, message }),
  );
  const status = await readFile(`/proc/${child.vm.record.pid}/status`, 'utf8');
  const { isolation } = lab.engine;
  process.stdout.write(`${JSON.stringify({ isolation, branches, answers, limited, status })}\n`);
} finally {
  await lab[Symbol.asyncDispose]();
}
