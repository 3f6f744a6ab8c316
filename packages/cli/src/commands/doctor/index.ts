import { defineCommand, type Call } from '../../command.ts';
import { exitCodes } from '../../lib/errors.ts';
import { lookAtAll } from './checks.ts';
import { Facts } from './facts.ts';
import { mend, requireTerminal } from './mend.ts';
import { printRows } from './print.ts';
import { toRow } from './row.ts';

export const doctor = defineCommand<{ fix?: boolean }>({
  name: 'doctor',
  summary: 'check this host, and say what is missing',
  description:
    'Exits with 1 if a row fails. A warning says what is lost and what still works. WHERE says who looked: this command on its own\nmachine (local), or the running controller, which may be on another one.',
  args: [],
  options: [
    {
      flags: '--fix',
      summary: 'offer a command for each row that can be repaired, and run it if you agree',
      conflicts: ['json'],
    },
  ],
  examples: [
    { line: 'forkd doctor', summary: 'as a table' },
    { line: 'forkd doctor --fix', summary: 'repair rows, asking each time' },
    { line: 'forkd doctor --json', summary: '{rows: [{id, status, where, detail, hint, fix}]}, for a program' },
  ],
  run,
});

async function run({ context, options }: Call<{ fix?: boolean }>): Promise<number> {
  if (options.fix) requireTerminal(context);
  const facts = new Facts(context);
  let findings = await lookAtAll(facts);
  const print = () => {
    const rows = [...findings].map(([id, finding]) => toRow(id, finding));
    if (context.out.isJson) context.out.json({ rows });
    else printRows(context.out, rows);
  };
  print();
  if (await facts.isElsewhere()) {
    context.out.note(
      'The controller may be on another machine: local rows are about this one, where its sandboxes do not run.',
    );
  }
  if (options.fix && (await mend(context, findings))) {
    findings = await lookAtAll(new Facts(context));
    print();
  }
  return [...findings.values()].some(({ status }) => status === 'fail') ? exitCodes.failure : exitCodes.ok;
}
