import { defineCommand, type Call } from '../../command.ts';
import { exitCodes } from '../../lib/errors.ts';
import { lookAtAll } from './checks.ts';
import { Facts } from './facts.ts';
import { mend, requireTerminal } from './mend.ts';
import { printRows } from './print.ts';
import { toRow } from './row.ts';

export const doctor = defineCommand<{ fix?: boolean }>({
  name: 'doctor',
  summary: 'check what this host can do, and say what is missing',
  description: 'Exit code 1 only where a row fails: a warning says what is lost, and what still works.',
  args: [],
  options: [
    {
      flags: '--fix',
      summary: 'offer the command that mends each row, one by one, and run it after a y',
      conflicts: ['json'],
    },
  ],
  examples: [
    { line: 'forkd doctor', summary: 'as a table' },
    { line: 'forkd doctor --fix', summary: 'and mend what a command can mend, asking each time' },
    { line: 'forkd doctor --json', summary: '{rows: [{id, status, detail, hint}]}, and fix where a command mends it' },
  ],
  run,
});

async function run({ context, options }: Call<{ fix?: boolean }>): Promise<number> {
  if (options.fix) requireTerminal(context);
  let findings = await lookAtAll(new Facts(context));
  const print = () => {
    const rows = [...findings].map(([id, finding]) => toRow(id, finding));
    if (context.out.isJson) context.out.json({ rows });
    else printRows(context.out, rows);
  };
  print();
  if (options.fix && (await mend(context, findings))) {
    findings = await lookAtAll(new Facts(context));
    print();
  }
  return [...findings.values()].some(({ status }) => status === 'fail') ? exitCodes.failure : exitCodes.ok;
}
