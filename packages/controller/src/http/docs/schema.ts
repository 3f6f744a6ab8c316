import type { JsonSchema } from '../openapi/components.ts';
import { escapeHtml, inline } from './text.ts';

/** A table with one row per field of an object. Empty for a schema without fields. */
export function fieldsTable(schema: JsonSchema): string {
  const { properties, required } = schema as { properties?: Record<string, JsonSchema>; required?: string[] };
  if (properties === undefined) return '';
  const rows = Object.entries(properties).map(([name, value]) => row(name, value, required?.includes(name) === true));
  return table(rows);
}

export function table(rows: readonly string[]): string {
  return `<table>${rows.join('')}</table>`;
}

export function row(name: string, schema: JsonSchema, isRequired: boolean, text = schema['description']): string {
  const mark = isRequired ? ' <b title="required">*</b>' : '';
  const said = typeof text === 'string' ? inline(text) : '';
  return `<tr><th><code>${escapeHtml(name)}</code>${mark}</th><td>${typeOf(schema)}</td><td>${said}</td></tr>`;
}

/** Names the type in a few words, with its bounds and its default. */
export function typeOf(schema: JsonSchema): string {
  const bounds = boundsOf(schema);
  return `${shapeOf(schema)}${bounds === '' ? '' : ` <small>${escapeHtml(bounds)}</small>`}`;
}

function shapeOf(schema: JsonSchema): string {
  const { $ref: ref, anyOf, enum: words, type, items, additionalProperties: values, properties } = schema;
  if (typeof ref === 'string') return linkTo(ref.split('/').at(-1) ?? '');
  if (Array.isArray(anyOf)) return (anyOf as JsonSchema[]).map(typeOf).join(' or ');
  if (Array.isArray(words)) return words.map((word) => `<code>${escapeHtml(JSON.stringify(word))}</code>`).join(' ');
  if ('const' in schema) return `<code>${escapeHtml(JSON.stringify(schema['const']))}</code>`;
  if (typeof items === 'object' && items !== null) return `array of ${typeOf(items as JsonSchema)}`;
  if (typeof values === 'object' && values !== null) return `map of ${typeOf(values as JsonSchema)}`;
  if (typeof properties === 'object' && properties !== null) return `object of ${fieldsTable(schema)}`;
  return escapeHtml(Array.isArray(type) ? type.join(' or ') : typeof type === 'string' ? type : 'anything');
}

function linkTo(name: string): string {
  return `<a href="#schema-${escapeHtml(name)}">${escapeHtml(name)}</a>`;
}

const words: Record<string, string> = {
  minimum: '≥',
  maximum: '≤',
  exclusiveMinimum: '>',
  minLength: 'characters ≥',
  maxLength: 'characters ≤',
  minItems: 'items ≥',
  maxItems: 'items ≤',
  maxProperties: 'keys ≤',
  pattern: 'matches',
  default: 'default',
};

function boundsOf(schema: JsonSchema): string {
  const said = Object.entries(words).flatMap(([keyword, word]) => {
    const value = schema[keyword];
    return value === undefined ? [] : [`${word} ${typeof value === 'string' ? value : JSON.stringify(value)}`];
  });
  return said.join(', ');
}
