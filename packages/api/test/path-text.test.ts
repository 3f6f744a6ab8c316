// Proves that every name keeps its bytes as text, in a query and back, and that text that is UTF-8 stays as it is.
import { expect, test } from 'vitest';
import { bytesOfPath, decodeQueryValue, encodeQueryValue, hasOtherBytes, pathOfBytes } from '../src/constants.ts';

test.each([
  ['/srv/ä b', '/srv/ä b'],
  ['😀', '😀'],
  [Buffer.from('caf\u00e9', 'latin1'), 'caf\udce9'],
  [Buffer.from([0xe2, 0x82, 0x41]), '\udce2\udc82A'],
  [Buffer.from([0xf0, 0x9f, 0x98, 0x80, 0xff, 0xc3]), '😀\udcff\udcc3'],
  // Half a surrogate pair, and a slash that is too long: neither is UTF-8.
  [Buffer.from([0xed, 0xb3, 0xa9]), '\udced\udcb3\udca9'],
  [Buffer.from([0xc0, 0xaf]), '\udcc0\udcaf'],
  ['', ''],
])('the bytes of %j are the text %j', (given, path) => {
  const bytes = Buffer.from(given);
  expect(pathOfBytes(bytes)).toBe(path);
  expect(Buffer.from(bytesOfPath(path))).toEqual(bytes);
  expect(encodeQueryValue(path)).toMatch(/^[!-~]*$/);
  expect(decodeQueryValue(encodeQueryValue(path))).toBe(path);
  expect(hasOtherBytes(path)).toBe(typeof given !== 'string');
});

test('every byte is kept', () => {
  const bytes = Uint8Array.from({ length: 512 }, (_, index) => (index * 7) & 0xff);
  expect(Buffer.from(bytesOfPath(pathOfBytes(bytes)))).toEqual(Buffer.from(bytes));
});

test('other halves of surrogate pairs become replacement characters in a query', () => {
  expect(encodeQueryValue('a\ud800b')).toBe('a%EF%BF%BDb');
  expect(decodeQueryValue('a%zz%2fb%')).toBe('a%zz/b%');
});
