/** Proves that a text from a guest cannot make a terminal do anything. */
import { expect, test } from 'vitest';
import { boundedText, visibleJson, visibleLine, visibleText } from '../src/visible.ts';

test('what a terminal would obey is written as an escape', () => {
  expect(visibleText('a\u001b[31mred\u001b]0;title\u0007\u009b2J\u007f\r\n\tb')).toBe(
    String.raw`a\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\r` + '\n\tb',
  );
  expect(visibleText('gpj\u202e.exe\u200b\u2066\ufeff\u{e0041}\ud800')).toBe(
    String.raw`gpj\u202e.exe\u200b\u2066\ufeff\u{e0041}\ud800`,
  );
});

test('text of any language stays as it is', () => {
  const text = 'Grüße, 世界, 😀, مرحبا, a\\b';
  expect(visibleText(text)).toBe(text);
});

test('a line stays one line', () => {
  expect(visibleLine('a\nb\tc')).toBe(String.raw`a\nb\tc`);
});

test('a long text is cut and says so', () => {
  expect(boundedText('abcdef', 4)).toBe('abcd… (2 more characters)');
  expect(boundedText('abcd', 4)).toBe('abcd');
});

test('JSON is the same value and shows nothing that a terminal would obey', () => {
  const value = { name: 'a\u001b[2J\u009b\u202e\u{e0041}\ud800😀', list: ['\n\t'] };
  const shown = visibleJson(JSON.stringify(value, null, 2));
  expect(JSON.parse(shown)).toEqual(value);
  expect(visibleText(shown)).toBe(shown);
});
