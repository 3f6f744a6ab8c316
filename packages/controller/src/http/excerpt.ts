const CHARS_MAX = 80;

/** Characters that a terminal or log viewer would act on or hide: controls, direction and width marks, lone surrogates. */
const invisible = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** A value of the caller, short and harmless, for an error message. Objects and arrays are reduced to their kind. */
export function excerpt(value: unknown): string {
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  if (typeof value !== 'string') return String(value);
  const cut = value.length > CHARS_MAX ? `${value.slice(0, CHARS_MAX)}…` : value;
  return visible(JSON.stringify(cut));
}

/** The beginning of a text from the caller that needs no quotes, such as a path. */
export function visibleStart(text: string): string {
  return visible(text.length > CHARS_MAX ? `${text.slice(0, CHARS_MAX)}…` : text);
}

function visible(text: string): string {
  return text.replaceAll(invisible, (letter) => `\\u{${letter.codePointAt(0)?.toString(16)}}`);
}

/** The message with its line breaks and tabs. All other characters that a terminal would act on are escaped. */
export function printable(message: string): string {
  return message
    .split(/([\n\t])/)
    .map((part, index) => (index % 2 === 1 ? part : visible(part)))
    .join('');
}
