//! Consistent Overhead Byte Stuffing: any bytes, rewritten so that no 0x00 occurs in them.
//!
//! 0x00 is then free to delimit frames, and a reader that has lost its place finds the next frame at the next 0x00.

/// Appends the encoding of `data` to `out`, without a delimiter.
pub fn encode(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(data.len() + data.len() / 254 + 1);
    let mut code_at = out.len();
    out.push(0);
    let mut code = 1u8;
    for (index, &byte) in data.iter().enumerate() {
        if byte != 0 {
            out.push(byte);
            code += 1;
        }
        // A full block (254 bytes, no zero after them) is only closed when more bytes follow it.
        if byte == 0 || (code == 0xff && index + 1 < data.len()) {
            out[code_at] = code;
            code_at = out.len();
            out.push(0);
            code = 1;
        }
    }
    out[code_at] = code;
}

/// Decodes one frame (delimiter removed) into `out`. `false` where the bytes are no COBS encoding.
pub fn decode(mut data: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    while let Some((&code, rest)) = data.split_first() {
        let length = usize::from(code).wrapping_sub(1);
        if code == 0 || length > rest.len() || rest[..length].contains(&0) {
            return false;
        }
        out.extend_from_slice(&rest[..length]);
        data = &rest[length..];
        if code != 0xff && !data.is_empty() {
            out.push(0);
        }
    }
    true
}
