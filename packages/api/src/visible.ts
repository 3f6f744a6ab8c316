/**
 * Characters that control a terminal or mislead its reader: control characters, overrides of the writing direction and other
 * invisible characters, unusual line separators, halves of surrogate pairs. Line feeds and tabs are text.
 */
const unseen = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** Escapes every character that would control a terminal: `\x1b`, `\u202e`. */
export function visibleText(text: string): string {
  return text.replaceAll(unseen, escaped);
}

/** Escapes a text that must stay on one line: line feeds and tabs as well. */
export function visibleLine(text: string): string {
  return visibleText(text)
    .replaceAll('\n', String.raw`\n`)
    .replaceAll('\t', String.raw`\t`);
}

/** Makes JSON safe to print on a terminal. The value stays the same: characters are escaped as JSON escapes them. */
export function visibleJson(json: string): string {
  return json.replaceAll(unseen, (character) =>
    Array.from({ length: character.length }, (_, index) => character.charCodeAt(index))
      .map((code) => String.raw`\u${code.toString(16).padStart(4, '0')}`)
      .join(''),
  );
}

function escaped(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  if (character === '\r') return String.raw`\r`;
  const digits = code.toString(16);
  if (code < 0x100) return String.raw`\x${digits.padStart(2, '0')}`;
  return code < 0x10000 ? String.raw`\u${digits.padStart(4, '0')}` : String.raw`\u{${digits}}`;
}

/** Returns at most `charsMax` characters of the text, followed by the number of characters that were cut off. */
export function boundedText(text: string, charsMax: number): string {
  const over = text.length - charsMax;
  return over <= 0 ? text : `${text.slice(0, charsMax)}… (${over} more characters)`;
}
