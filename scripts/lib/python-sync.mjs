const HEADER = '# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.\n';

/** What stands for what, in order. Names that begin with `Async` or end with `_async` lose that. */
const replacements = [
  [/\basync (?=def|with|for)/g, ''],
  [/\bawait /g, ''],
  [/`async with`/g, '`with`'],
  [/\bawaited\b/g, 'waited for'],
  [/\bAsync(?=[A-Z])/g, ''],
  [/(?<=\w)_async\b/g, ''],
  [/\b__a(?=enter__|exit__|iter__|next__)/g, '__'],
  [/\banext\(/g, 'next('],
  [/\baclose\(/g, 'close('],
  [/\baiter_raw\(/g, 'iter_raw('],
  [/\bAwaitable\[(\w+(?:\.\w+)?)\]/g, '$1'],
  [/\bAwaitable, /g, ''],
  [/ asyncio notices only when it writes\./g, ''],
];

/**
 * The synchronous form of an asynchronous module.
 * @param {string} source
 */
export function synchronous(source) {
  const text = replacements.reduce((done, [pattern, by]) => done.replaceAll(pattern, by), source);
  return source === '' ? '' : HEADER + text;
}
