import { access } from 'node:fs/promises';
import type { Check } from '../check.ts';
import type { Facts } from '../facts.ts';
import { nativePrograms } from '../native.ts';
import { fail, pass, type Finding } from '../row.ts';

export const nativeChecks: readonly Check[] = [{ id: 'native_programs', look: native }];

/** What is built of Rust, without which nothing runs. Whether it works is for the rows that use it. */
async function native({ env }: Facts): Promise<Finding> {
  const programs = nativePrograms(env);
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
    first.fix,
  );
}
