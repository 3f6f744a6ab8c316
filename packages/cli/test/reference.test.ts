// Proves that what is checked in beside the code is what its verbs say now: the reference, the manual page and the completion
// scripts; and that man and mandoc read the page without a warning. `npx vitest run packages/cli/test/reference.test.ts -u` writes them anew: the path first, since -u would take it for its own.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { cliVersion, completionScript, loadCommandGroups, manPage, markdownReference } from '../src/index.ts';

const repo = fileURLToPath(new URL('../../../', import.meta.url));
const page = join(repo, 'packaging/man/forkd.1');
const commandGroups = await loadCommandGroups();
const commands = commandGroups.flatMap((group) => group.commands);

describe('what is made from the verbs', () => {
  test('is current: the reference', async () => {
    await expect(markdownReference(commandGroups)).toMatchFileSnapshot(join(repo, 'docs/reference/cli.md'));
  });

  test('is current: the manual page', async () => {
    await expect(manPage(commandGroups, cliVersion())).toMatchFileSnapshot(page);
  });

  test.each([
    ['bash', 'forkd.bash'],
    ['zsh', '_forkd'],
    ['fish', 'forkd.fish'],
  ] as const)('is current: completion for %s', async (shell, file) => {
    const script = completionScript(shell, commandGroups);
    await expect(script).toMatchFileSnapshot(join(repo, 'packaging/completion', file));
  });
});

describe('the manual page', () => {
  test('is read by man without a warning, with every verb and every option', ({ skip }) => {
    const options = ['--warnings=w', '-l', page];
    const env = { ...process.env, MANWIDTH: '200', LC_ALL: 'C.UTF-8', MANPAGER: 'cat' };
    const { error, status, stdout, stderr } = spawnSync('man', options, { env, encoding: 'utf8' });
    if (error) skip(`man is not on this host (Debian package man-db): ${error.message}`);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    for (const command of commands.filter(({ hidden }) => hidden !== true)) {
      expect(stdout).toContain(`forkd ${command.name}`);
      for (const spec of command.options.filter(({ hidden }) => hidden !== true)) expect(stdout).toContain(spec.flags);
    }
  });

  test('has nothing that mandoc warns of', ({ skip }) => {
    const { error, stdout } = spawnSync('mandoc', ['-Tlint', '-W', 'warning', page], { encoding: 'utf8' });
    if (error) skip(`mandoc is not on this host (Debian package mandoc): ${error.message}`);
    expect(stdout).toBe('');
  });
});
