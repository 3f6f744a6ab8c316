import { isForkdError } from '@forkd/sdk';
import type { CallToolResult } from '@modelcontextprotocol/server';

/** The result as structure, and as text for clients that know no structure. */
export function resultOf(value: unknown): CallToolResult {
  const structured = Array.isArray(value) ? { result: value } : (value as Record<string, unknown>);
  return { content: [{ type: 'text', text: JSON.stringify(value) }], structuredContent: structured };
}

/** The sentence of the error, with its code and its hint: what the model needs to do better. */
export function errorResult(error: unknown): CallToolResult {
  if (!isForkdError(error)) throw error;
  const hint = error.hint === undefined ? '' : `\nHint: ${error.hint}`;
  return { isError: true, content: [{ type: 'text', text: `${error.message} (${error.code})${hint}` }] };
}
