import { stripVTControlCharacters } from 'node:util';

const KIB = 1024;
const GAP = '  ';
/** An id fits, and so does a heading. */
const COLUMN_WIDTH_MIN = 14;
const SIZE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** `1536` → `1.5 KiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= KIB && unit < SIZE_UNITS.length - 1) {
    value /= KIB;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${SIZE_UNITS[unit]}`;
}

/** `2.134` → `2.13 ms`, `65432` → `65.4 s`. */
export function formatMs(ms: number): string {
  if (ms < 100) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 600_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

/** `5 minutes ago`, from seconds since 1970. */
export function formatAge(createdUnixSecs: number, nowUnixMs = Date.now()): string {
  return `${largestUnit(Math.max(0, Math.floor(nowUnixMs / 1000 - createdUnixSecs)))} ago`;
}

/** `in 119 minutes`, from seconds since 1970; `now` for what is past. */
export function formatUntil(unixSecs: number, nowUnixMs = Date.now()): string {
  const secs = Math.ceil(unixSecs - nowUnixMs / 1000);
  return secs <= 0 ? 'now' : `in ${largestUnit(secs, 2)}`;
}

/** In a unit of which there are at least `countMin`, where there is one. */
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

/** `1 file`, `2 files`. */
export function plural(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? '' : 's'}`;
}

/**
 * Columns wide enough for their widest cell, two blanks between; colours do not count as width. Where that is more than
 * `columnsMax`, the widest columns give way, down to what an id needs.
 */
export function formatTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  columnsMax = Number.POSITIVE_INFINITY,
): string {
  const all = [header, ...rows];
  const wanted = header.map((_, column) => Math.max(...all.map((row) => width(row[column] ?? ''))));
  const widths = fitted(wanted, columnsMax - GAP.length * (header.length - 1));
  return all
    .map((row) =>
      row
        .map((cell, column) => pad(cell, widths[column] ?? 0))
        .join(GAP)
        .trimEnd(),
    )
    .join('\n');
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

/** Shortens what is too long for a table to its beginning. */
export function ellipsis(text: string, widthMax: number): string {
  return text.length <= widthMax ? text : `${text.slice(0, widthMax - 1)}…`;
}

function width(cell: string): number {
  return stripVTControlCharacters(cell).length;
}

function pad(cell: string, columns: number): string {
  const fitting = width(cell) > columns ? ellipsis(stripVTControlCharacters(cell), columns) : cell;
  return fitting + ' '.repeat(columns - width(fitting));
}
