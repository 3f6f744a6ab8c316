/** Consistent Overhead Byte Stuffing: any bytes, rewritten so that no 0x00 occurs in them. See `channel/cobs.rs`. */

/** Writes the encoding of `data` at `out[at]`, without a delimiter, and gives the position after it. */
export function cobsEncode(data: Uint8Array, out: Uint8Array, at: number): number {
  let codeAt = at++;
  let code = 1;
  for (let index = 0; index < data.length; index++) {
    const byte = data[index]!;
    if (byte !== 0) {
      out[at++] = byte;
      code++;
    }
    // A full block (254 bytes, no zero after them) is only closed when more bytes follow it.
    if (byte === 0 || (code === 0xff && index + 1 < data.length)) {
      out[codeAt] = code;
      codeAt = at++;
      code = 1;
    }
  }
  out[codeAt] = code;
  return at;
}

/** Bytes that the encoding of `length` bytes takes at most. */
export function cobsLengthMax(length: number): number {
  return length + Math.floor(length / 254) + 1;
}

/** Decodes one frame (delimiter removed, no 0x00 inside). `undefined` where the bytes are no COBS encoding. */
export function cobsDecode(data: Uint8Array): Uint8Array | undefined {
  const out = new Uint8Array(data.length);
  let to = 0;
  let from = 0;
  while (from < data.length) {
    const code = data[from++]!;
    const end = from + code - 1;
    if (code === 0 || end > data.length) return undefined;
    // Byte by byte: a view of each block costs more than it saves, most of all where the data is full of zeros.
    while (from < end) out[to++] = data[from++]!;
    if (code !== 0xff && from < data.length) out[to++] = 0;
  }
  return out.subarray(0, to);
}
