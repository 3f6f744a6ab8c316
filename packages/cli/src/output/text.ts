import { stripVTControlCharacters } from 'node:util';

const KIB = 1024;
const GAP = '  ';
/** Wide enough for an id or a heading. */
const COLUMN_WIDTH_MIN = 14;
const SIZE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** Example: `1536` → `1.5 KiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= KIB && unit < SIZE_UNITS.length - 1) {
    value /= KIB;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${SIZE_UNITS[unit]}`;
}

/** Examples: `2.134` → `2.13 ms`, `65432` → `65.4 s`. */
export function formatMs(ms: number): string {
  if (ms < 100) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 600_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

/** Formats seconds since 1970 as `5 minutes ago`. */
export function formatAge(createdUnixSecs: number, nowUnixMs = Date.now()): string {
  return `${largestUnit(Math.max(0, Math.floor(nowUnixMs / 1000 - createdUnixSecs)))} ago`;
}

/** Formats seconds since 1970 as `in 119 minutes`; a past time is `now`. */
export function formatUntil(unixSecs: number, nowUnixMs = Date.now()): string {
  const secs = Math.ceil(unixSecs - nowUnixMs / 1000);
  return secs <= 0 ? 'now' : `in ${largestUnit(secs, 2)}`;
}

/** Formats a time in the largest unit that it has at least `countMin` of; else in seconds. */
function largestUnit(secs: number, countMin = 1): string {
  const steps: [number, string][] = [
    [86_400, 'day'],
    [3_600, 'hour'],
    [60, 'minute'],
    [1, 'second'],
  ];
  const [size, unit] = steps.find(([step]) => secs >= step * countMin) ?? [1, 'second'];
  return plural(Math.floor(secs / size), unit);
}

/** Examples: `1 file`, `2 files`, `2 sandboxes`. */
export function plural(count: number, word: string, words = `${word}s`): string {
  return `${count} ${count === 1 ? word : words}`;
}

/**
 * Formats a table. Columns are as wide as their widest cell, with two blanks between; colours do not count as width. If the
 * table is wider than `columnsMax`, the widest columns shrink, down to the width of an id. If that is not enough, the last
 * columns are left out, and an ellipsis in the heading says so.
 */
export function formatTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  columnsMax = Number.POSITIVE_INFINITY,
): string {
  const whole = [header, ...rows];
  const wanted = header.map((_, column) => Math.max(...whole.map((row) => width(row[column] ?? ''))));
  const count = shownColumns(wanted, columnsMax);
  const isCut = count < header.length;
  const all = isCut ? [[...header.slice(0, count), '…'], ...rows.map((row) => row.slice(0, count))] : whole;
  const shown = isCut ? [...wanted.slice(0, count), 1] : wanted;
  const widths = fitted(shown, columnsMax - GAP.length * (shown.length - 1));
  return all
    .map((row) =>
      row
        .map((cell, column) => pad(cell, widths[column] ?? 0))
        .join(GAP)
        .trimEnd(),
    )
    .join('\n');
}

/**
 * Splits the columns of a table into groups that are no wider than `columnsMax`, each with the first column. A group has at
 * least two columns, however wide they are.
 */
export function columnGroups(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  columnsMax: number,
): number[][] {
  const wanted = header.map((_, column) => Math.max(...[header, ...rows].map((row) => width(row[column] ?? ''))));
  const groups = [[0]];
  let used = wanted[0] ?? 0;
  wanted.slice(1).forEach((columns, index) => {
    const isNew = (groups.at(-1)?.length ?? 0) > 1 && used + GAP.length + columns > columnsMax;
    if (isNew) groups.push([0]);
    used = (isNew ? (wanted[0] ?? 0) : used) + GAP.length + columns;
    groups.at(-1)?.push(index + 1);
  });
  return groups;
}

/** The number of columns that fit if each shrinks as far as it may. At least two are shown. */
function shownColumns(wanted: readonly number[], totalMax: number): number {
  const least = wanted.map((columns) => Math.min(columns, COLUMN_WIDTH_MIN) + GAP.length);
  const sumOf = (count: number) => least.slice(0, count).reduce((sum, one) => sum + one, 0);
  if (sumOf(wanted.length) - GAP.length <= totalMax) return wanted.length;
  let count = wanted.length - 1;
  while (count > 2 && sumOf(count) + 1 > totalMax) count -= 1;
  return Math.max(count, Math.min(2, wanted.length));
}

function fitted(wanted: readonly number[], totalMax: number): number[] {
  const widths = [...wanted];
  for (;;) {
    const widest = widths.indexOf(Math.max(...widths));
    const total = widths.reduce((sum, one) => sum + one, 0);
    if (total <= totalMax || (widths[widest] ?? 0) <= COLUMN_WIDTH_MIN) return widths;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
}

/** Cuts off text that is too long, and ends it with an ellipsis. */
export function ellipsis(text: string, widthMax: number): string {
  return text.length <= widthMax ? text : `${text.slice(0, widthMax - 1)}…`;
}

/** Breaks text at blanks into lines of at most `widthMax` characters. A longer word has a line of its own. */
export function wrap(text: string, widthMax: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > widthMax) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}

function width(cell: string): number {
  return stripVTControlCharacters(cell).length;
}

function pad(cell: string, columns: number): string {
  const fitting = width(cell) > columns ? ellipsis(stripVTControlCharacters(cell), columns) : cell;
  return fitting + ' '.repeat(columns - width(fitting));
}
