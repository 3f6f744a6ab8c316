import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { exitCodes } from '../../lib/errors.ts';
import { checkController } from './controller.ts';
import { checkDataDir } from './data-dir.ts';
import { checkFeatures } from './features.ts';
import { checkPlatform } from './platform.ts';
import type { Row } from './row.ts';
import { checkTools } from './tools.ts';

export const doctor = defineCommand({
  name: 'doctor',
  summary: 'check what this host can do, and say what is missing',
  description: 'Exit code 1 only where a row fails: a warning says what is lost, and what still works.',
  args: [],
  options: [],
  examples: [
    { line: 'forkd doctor', summary: 'as a table' },
    { line: 'forkd doctor --json', summary: '{rows: [{id, status, detail, hint}]}' },
  ],
  run,
});

async function run({ context }: Call<Record<string, unknown>>): Promise<number> {
  const { host, row: controllerRow } = await checkController(context);
  const rows: Row[] = [
    ...checkPlatform(host),
    ...(await checkTools(context.env)),
    ...checkFeatures(host),
    ...(await checkDataDir(context.globals.dataDir, host)),
    controllerRow,
  ];
  if (context.out.isJson) context.out.json({ rows });
  else printRows(context, rows);
  return rows.some((row) => row.status === 'fail') ? exitCodes.failure : exitCodes.ok;
}

function printRows(context: Context, rows: readonly Row[]): void {
  const { colors } = context.out;
  const paint = { pass: colors.green, warn: colors.yellow, fail: colors.red, skip: colors.dim };
  context.out.table(
    ['CHECK', 'STATUS', 'DETAIL'],
    rows.map((row) => [row.id, paint[row.status](row.status), row.detail]),
  );
  for (const row of rows) {
    if (row.hint !== null && row.status !== 'pass') context.out.line(`${row.id}: ${row.hint}`);
  }
}
