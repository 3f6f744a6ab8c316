type Field = string | number | boolean | null | undefined;

/** Rows as comma-separated values. Each field of any row has a column, in the order of first appearance. */
export function toCsv<Row extends { [Name in keyof Row]: Field }>(rows: readonly Row[]): string {
  const fields = [...new Set(rows.flatMap((row) => Object.keys(row)))] as (keyof Row & string)[];
  const lines = rows.map((row) => fields.map((field) => cell(row[field])).join(','));
  return `${[fields.map(cell).join(','), ...lines].join('\n')}\n`;
}

/** An unknown value becomes an empty cell. */
function cell(value: Field): string {
  const text = value === null || value === undefined ? '' : `${value}`;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
