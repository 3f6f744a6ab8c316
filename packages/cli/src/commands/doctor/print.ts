import type { Output } from '../../output/output.ts';
import { formatTable } from '../../output/text.ts';
import type { Row, RowStatus } from './row.ts';

const symbols: Readonly<Record<RowStatus, string>> = { pass: '✓', warn: '!', fail: '✗', skip: '-' };
const statuses: readonly RowStatus[] = ['pass', 'warn', 'fail', 'skip'];

/** Prints one line per row, the remedy below rows that do not pass, and the number of rows per status. */
export function printRows(out: Output, rows: readonly Row[]): void {
  // Format all rows as one table, so that the columns align. Then print the remarks of each row after its line.
  const [header = '', ...lines] = formatTable(
    ['', 'CHECK', 'STATUS', 'DETAIL'].map((cell) => out.colors.bold(cell)),
    rows.map((row) => cells(out, row)),
  ).split('\n');
  out.line(header);
  rows.forEach((row, index) => {
    out.line(lines[index] ?? '');
    printRemarks(out, row);
  });
  const counts = statuses.map((status) => `${rows.filter((row) => row.status === status).length} ${status}`);
  out.line(counts.join(', '));
}

function printRemarks(out: Output, { status, hint, fix }: Row): void {
  if (status === 'pass') return;
  if (hint !== null) out.line(`     ${hint}`);
  if (fix !== undefined) out.line(`     $ ${fix}`);
}

function cells({ colors }: Output, { id, status, detail }: Row): string[] {
  const paint = { pass: colors.green, warn: colors.yellow, fail: colors.red, skip: colors.dim }[status];
  // Messages of other programs may have several lines.
  return [paint(symbols[status]), id, paint(status), detail.replaceAll(/\s*\n\s*/g, '; ')];
}
