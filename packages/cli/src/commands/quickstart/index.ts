import { writeFile } from 'node:fs/promises';
import type { HostInfo } from '@forkd/api';
import { CodedError } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { reportOf } from '../../lib/errors.ts';
import { formatBytes } from '../../output/text.ts';
import { branchStep } from './branch-step.ts';
import { cleanUp } from './cleanup.ts';
import { diskStep } from './disk-step.ts';
import { forkStep } from './fork-step.ts';
import { Checks, printReport, type MemoryFigures, type Report } from './report.ts';
import { DISK_TAG, type Run } from './run.ts';
import { templateStep } from './template-step.ts';

interface Options {
  json?: string;
  keep?: boolean;
}

export const quickstart = defineCommand<Options>({
  name: 'quickstart',
  summary: 'show what forkd does, on real guests: warm up, fork, branch live',
  description:
    'Builds a Python template, forks ten children, and branches one of them three times while a command runs in it, and once more to show its disk.\nEvery claim is checked, and a claim that does not hold is a failure. Nothing keeps running.',
  args: [],
  options: [
    { flags: '--json <file>', summary: 'write the figures to this file', completes: 'file' },
    { flags: '--keep', summary: 'keep the snapshots' },
  ],
  examples: [
    { line: 'forkd quickstart', summary: 'run all steps' },
    { line: 'forkd quickstart --json figures.json', summary: 'write the figures to a file too' },
  ],
  run: quickstartRun,
});

async function quickstartRun({ context, options }: Call<Options>): Promise<void> {
  const { client, startedController } = await open(context);
  const sandboxesBefore = new Set((await client.listSandboxes()).map((sandbox) => sandbox.id));
  const checks = new Checks(context.out);
  const clean = () => {
    context.out.note('Cleaning up.');
    return cleanUp({ client, sandboxesBefore, keepsSnapshots: options.keep === true, startedController });
  };
  const report = await measure(context, client, checks).catch(async (error: unknown) => {
    // Report the first failure. A failed clean-up is only a warning.
    await clean().catch((second: unknown) => context.out.warn(`Clean-up failed: ${reportOf(second).error}`));
    throw error;
  });
  printReport(context.out, report);
  await clean();
  if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
  if (checks.failed > 0) {
    throw new CodedError('check_failed', `${checks.failed} of the checks failed.`, {
      hint: 'The lines marked FAILED say which.',
    });
  }
  context.out.line('All checks passed; nothing is left running.');
}

async function open(context: Context): Promise<{ client: ForkdClient; startedController: boolean }> {
  if (context.remoteUrl !== undefined) return { client: await context.client(), startedController: false };
  const local = await context.local();
  return { client: local.client, startedController: local.started };
}

async function measure(context: Context, client: ForkdClient, checks: Checks): Promise<Report> {
  const host = await client.host({ signal: context.signal });
  context.out.line(hostLine(host));
  const run: Run = { context, client, host, checks, sandboxes: [] };
  const { nonce, ...template } = await templateStep(run);
  const fork = await forkStep(run, nonce);
  const branches = await branchStep(run);
  const disk = await diskStep(run, DISK_TAG);
  return { host, template, fork, branches, disk, memory: await memoryOf(run) };
}

function hostLine(host: HostInfo): string {
  const { engine } = host;
  const machine = `${host.cpus} CPUs, ${formatBytes(host.mem_bytes)}, Linux ${host.kernel}`;
  return `${host.hostname}: ${machine}; ${engine.name} ${engine.version} with ${engine.accelerator} (${engine.reason.replace(/\.$/, '')})`;
}

function memoryOf(run: Run): Promise<MemoryFigures[]> {
  return Promise.all(
    run.sandboxes.map(async (sandbox) => {
      const { private_bytes, shared_bytes } = await run.client.memory(sandbox, { signal: run.context.signal });
      return { sandbox, private_bytes, shared_bytes };
    }),
  );
}
