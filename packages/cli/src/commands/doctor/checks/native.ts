import { access } from 'node:fs/promises';
import type { Check } from '../check.ts';
import { buildOf, type Facts, unanswered } from '../facts.ts';
import { fail, pass, type Finding } from '../row.ts';

export const nativeChecks: readonly Check[] = [{ id: 'native_programs', look: native }];

/** Checks that the Rust programs exist, without which nothing runs. Other rows check if they work. */
async function native(facts: Facts): Promise<Finding> {
  const natives = await facts.natives();
  if ('said' in natives) return fail(unanswered(natives), 'no sandbox can be run without it; install forkd again');
  const programs = Object.values(natives);
  const isThere = await Promise.all(
    programs.map(({ file }) =>
      access(file).then(
        () => true,
        () => false,
      ),
    ),
  );
  const missing = programs.filter((_, index) => !isThere[index]);
  const [first] = missing;
  if (first === undefined) return pass(programs.map(({ file }) => file).join(', '));
  return fail(
    `not there: ${missing.map(({ file, variable }) => `${file} (${variable} names another)`).join(', ')}`,
    'no sandbox can be run without its pager, shim and launcher, and no template made without its agent',
    buildOf(first),
  );
}
