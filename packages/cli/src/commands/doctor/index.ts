import { defineCommand, type Call } from '../../command.ts';
import { exitCodes } from '../../lib/errors.ts';
import { lookAtAll } from './checks.ts';
import { Facts } from './facts.ts';
import { printRows } from './print.ts';
import { toRow } from './row.ts';

export const doctor = defineCommand({
  name: 'doctor',
  summary: 'check what this host can do, and say what is missing',
  description: 'Exit code 1 only where a row fails: a warning says what is lost, and what still works.',
  args: [],
  options: [],
  examples: [
    { line: 'forkd doctor', summary: 'as a table' },
    { line: 'forkd doctor --json', summary: '{rows: [{id, status, detail, hint}]}, and fix where a command mends it' },
  ],
  run,
});

async function run({ context }: Call<object>): Promise<number> {
  const findings = await lookAtAll(new Facts(context));
  const rows = [...findings].map(([id, finding]) => toRow(id, finding));
  if (context.out.isJson) context.out.json({ rows });
  else printRows(context.out, rows);
  return rows.some(({ status }) => status === 'fail') ? exitCodes.failure : exitCodes.ok;
}
