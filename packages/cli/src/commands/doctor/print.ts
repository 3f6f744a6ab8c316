import type { Output } from '../../lib/output.ts';
import { formatTable } from '../../lib/text.ts';
import type { Row, RowStatus } from './row.ts';

const symbols: Readonly<Record<RowStatus, string>> = { pass: '✓', warn: '!', fail: '✗', skip: '-' };
const statuses: readonly RowStatus[] = ['pass', 'warn', 'fail', 'skip'];

/** A line a row, what to do about it below those that are not well, and how many there are of each. */
export function printRows(out: Output, rows: readonly Row[]): void {
  // The table of all, so that the columns stand below each other, and what belongs to a row after its line.
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
  // What other programs said may be several lines long.
  return [paint(symbols[status]), id, paint(status), detail.replaceAll(/\s*\n\s*/g, '; ')];
}
