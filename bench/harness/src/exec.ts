import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { GuestAgent } from '@forkd/guest';
import { forkOne, makeTemplate, TestController } from '@forkd/testing';
import { controllerFacts, type Report, type Run } from './run.ts';
import { round, type Summary, summarize, timed } from './statistics.ts';

export interface ExecSetting {
  /** Number of commands over each way. */
  iterations: number;
}

/** A command (`true`), from the request until its exit code is known. */
export interface ExecRow {
  way: 'rest' | 'agent';
  iteration: number;
  ms: number;
}

export interface ExecEntry {
  rest_ms: Summary;
  agent_ms: Summary;
  /** Time that the controller adds, at the median. */
  added_ms: number;
}

export type ExecReport = Report<ExecRow, ExecEntry>;

/** Commands in a row over one way. The channel has one client, so each change of the way is a new connection. */
const BLOCK = 10;

const METHOD = [
  `One sandbox of a real controller: the command true, ${BLOCK} times through REST over a unix socket, ${BLOCK} times over the bare channel of the agent, and so on by turns. The first of each turn, which makes the connection, is not counted.`,
  'Each is counted from asking until the exit code is known. Most of it is the guest’s, which starts a process.',
  'Percentiles are nearest-rank; the 99th of fewer than a hundred is the largest.',
];

export async function benchExec({ iterations }: ExecSetting, run: Run): Promise<ExecReport> {
  await using controller = await TestController.start();
  const { client } = controller;
  const host = await controllerFacts(client);
  run.progress('exec: making a template');
  await makeTemplate(client);
  const id = await forkOne(client);
  const socket = await agentSocket(controller.dir, id);
  const rows: ExecRow[] = [];
  for (let done = 0; done < iterations; done += BLOCK) {
    const count = Math.min(BLOCK, iterations - done);
    const block = async (way: ExecRow['way'], exec: () => Promise<number>): Promise<void> => {
      await expectSuccess(exec);
      for (let index = 0; index < count; index += 1) {
        run.signal.throwIfAborted();
        rows.push({ way, iteration: done + index, ms: round((await timed(() => expectSuccess(exec))).ms) });
      }
    };
    await block('rest', async () => (await client.exec(id, { args: ['true'] })).exit_code);
    await using agent = await GuestAgent.connect(socket);
    await block('agent', async () => (await agent.run(['true'])).exitCode);
    run.progress(`exec: ${done + count} of ${iterations}`);
  }
  return { host, method: METHOD, rows, summary: [summarizeExec(rows)] };
}

export function summarizeExec(rows: readonly ExecRow[]): ExecEntry {
  const of = (way: ExecRow['way']): Summary => summarize(rows.filter((row) => row.way === way).map((row) => row.ms));
  const [rest, agent] = [of('rest'), of('agent')];
  return { rest_ms: rest, agent_ms: agent, added_ms: round(rest.p50 - agent.p50) };
}

/** The end of the channel, at the path that the record of the controller names. */
async function agentSocket(dataDir: string, id: string): Promise<string> {
  const record = await readFile(join(dataDir, 'sandboxes', id, 'sandbox.json'), 'utf8');
  const { vm } = JSON.parse(record) as { vm: { dir: string } };
  return join(vm.dir, 'agent.sock');
}

async function expectSuccess(exec: () => Promise<number>): Promise<void> {
  const code = await exec();
  if (code !== 0) throw new Error(`true ended with ${code}`);
}
