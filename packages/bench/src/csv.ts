type Field = string | number | boolean | null | undefined;

/** Rows as comma-separated values, a column for each field that any of them has, in the order in which they first appear. */
export function toCsv<Row extends { [Name in keyof Row]: Field }>(rows: readonly Row[]): string {
  const fields = [...new Set(rows.flatMap((row) => Object.keys(row)))] as (keyof Row & string)[];
  const lines = rows.map((row) => fields.map((field) => cell(row[field])).join(','));
  return `${[fields.map(cell).join(','), ...lines].join('\n')}\n`;
}

/** What is not known is empty. */
function cell(value: Field): string {
  const text = value === null || value === undefined ? '' : `${value}`;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
