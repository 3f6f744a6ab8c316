import { stripVTControlCharacters } from 'node:util';
import type { Output } from '../../output/output.ts';
import { formatTable, wrap } from '../../output/text.ts';
import type { Row, RowStatus } from './row.ts';

const symbols: Readonly<Record<RowStatus, string>> = { pass: '✓', warn: '!', fail: '✗', skip: '-' };
const statuses: readonly RowStatus[] = ['pass', 'warn', 'fail', 'skip'];
const REMARK_INDENT = 5;

/** Prints each row, the remedy below rows that do not pass, and the number of rows per status. A terminal gets no line that it breaks. */
export function printRows(out: Output, rows: readonly Row[]): void {
  const { stdout } = out.streams;
  const columns = stdout.isTTY ? stdout.columns : Number.POSITIVE_INFINITY;
  // Format all rows as one table, so that the columns align. Then print the rest of each row after its line.
  const header = ['', 'CHECK', 'STATUS', 'WHERE', 'DETAIL'].map((cell) => out.colors.bold(cell));
  const facts = rows.map((row) => factCells(out, row));
  const indent = stripVTControlCharacters(formatTable(header, facts)).indexOf('DETAIL');
  // Messages of other programs may have several lines.
  const details = rows.map(({ detail }) => wrap(detail.replaceAll(/\s*\n\s*/g, '; '), columns - indent));
  const table = formatTable(
    header,
    facts.map((cells, index) => [...cells, details[index]?.[0] ?? '']),
  );
  const [first = '', ...lines] = table.split('\n');
  out.line(first);
  rows.forEach((row, index) => {
    out.line(lines[index] ?? '');
    for (const more of details[index]?.slice(1) ?? []) out.line(' '.repeat(indent) + more);
    printRemarks(out, row, columns);
  });
  const counts = statuses.map((status) => `${rows.filter((row) => row.status === status).length} ${status}`);
  out.line(counts.join(', '));
}

function printRemarks(out: Output, { status, hint, fix }: Row, columns: number): void {
  if (status === 'pass') return;
  const blanks = ' '.repeat(REMARK_INDENT);
  if (hint !== null) for (const line of wrap(hint, columns - REMARK_INDENT)) out.line(blanks + line);
  // A command stays in one piece, to be copied.
  if (fix !== undefined) out.line(`${blanks}$ ${fix}`);
}

function factCells({ colors }: Output, { id, status, where }: Row): string[] {
  const paint = { pass: colors.green, warn: colors.yellow, fail: colors.red, skip: colors.dim }[status];
  return [paint(symbols[status]), id, paint(status), where];
}
