/**
 * Paths and names of files as text. A name is bytes, and need not be UTF-8. As in Python's `surrogateescape`, U+DC00 plus the
 * byte stands for each byte that is not: half a surrogate pair, which no UTF-8 contains.
 */
const escapedByte = /([\uDC80-\uDCFF])/u;
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function bytesOfPath(path: string): Uint8Array {
  return joined(path.split(escapedByte), byteOf);
}

export function pathOfBytes(bytes: Uint8Array): string {
  const whole = decoded(bytes);
  if (whole !== undefined) return whole;
  let path = '';
  for (let at = 0; at < bytes.length;) {
    const first = bytes[at] ?? 0;
    const length = first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    const character = decoded(bytes.subarray(at, at + length));
    path += character ?? String.fromCharCode(0xdc00 + first);
    at += character === undefined ? 1 : length;
  }
  return path;
}

/** True if the path has bytes that are not UTF-8. */
export function hasOtherBytes(path: string): boolean {
  return escapedByte.test(path);
}

/** Encodes a value of a query. `encodeURIComponent` would throw for bytes that are not UTF-8. */
export function encodeQueryValue(value: string): string {
  return value
    .split(escapedByte)
    .map((part, index) => (isByte(index) ? `%${byteOf(part).toString(16)}` : encodeURIComponent(wellFormed(part))))
    .join('');
}

/** Decodes a value of a query, which need not be UTF-8. */
export function decodeQueryValue(value: string): string {
  return pathOfBytes(joined(value.split(/%([0-9A-Fa-f]{2})/), (digits) => Number.parseInt(digits, 16)));
}

/** Joins the bytes of a text that was split at its escaped bytes. */
function joined(parts: readonly string[], toByte: (escaped: string) => number): Uint8Array {
  const encoder = new TextEncoder();
  const encoded = parts.map((part, index) => (isByte(index) ? Uint8Array.of(toByte(part)) : encoder.encode(part)));
  const bytes = new Uint8Array(encoded.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of encoded) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** Splitting at a capturing group makes every second part a byte. */
function isByte(index: number): boolean {
  return index % 2 === 1;
}

function byteOf(character: string): number {
  return character.charCodeAt(0) & 0xff;
}

function wellFormed(text: string): string {
  return text.replaceAll(/\p{Surrogate}/gu, '\uFFFD');
}

function decoded(bytes: Uint8Array): string | undefined {
  try {
    return strict.decode(bytes);
  } catch {
    return undefined;
  }
}
