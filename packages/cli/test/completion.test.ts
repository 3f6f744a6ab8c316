// Proves what a user of bash, zsh and fish gets by pressing Tab: each is a real interactive shell (bash and zsh on a pseudo
// terminal, whose line is printed after all candidates have been put into it), with our script, and a `forkd` that asks a
// real server. A shell that is not on this host is skipped, and the skip names its Debian package.
import { spawn, spawnSync } from 'node:child_process';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { fake, forkd, here, ID, serveForkd } from './support/forkd.ts';

serveForkd();

const MAIN = fileURLToPath(new URL('../bundle/forkd.js', import.meta.url));
const scripts = fileURLToPath(new URL('../../../packaging/completion/', import.meta.url));
const shells = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof shells)[number];

/** Prepares a shell so that `\x18` after `\x01` prints the line with all candidates in it. */
const setUp: Record<'bash' | 'zsh', string> = {
  bash: `bind 'set enable-bracketed-paste off'
bind '"\\C-a": insert-completions'
bind -x '"\\C-x": printf "<<%s>>\\n" "$READLINE_LINE"'
source ${scripts}forkd.bash
`,
  zsh: `autoload -U compinit; compinit -u -D
source ${scripts}_forkd
unset zle_bracketed_paste
zstyle ':completion:every:*' completer _all_matches _complete
zstyle ':completion:every:*' insert true
zle -C every complete-word _generic
bindkey '^A' every
show() { print -r -- "<<$BUFFER>>" }; zle -N show; bindkey '^X' show
`,
};

function isMissing(shell: Shell): boolean {
  return spawnSync(shell, ['--version']).error !== undefined;
}

function environment(more: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const bin = `${here}:${process.env['PATH']}`;
  return { PATH: bin, HOME: here, TERM: 'dumb', LC_ALL: 'C.UTF-8', FORKD_URL: `unix:${fake.socket}`, ...more };
}

/** What the shell offers for the last word of the line. */
async function candidates(shell: Shell, line: string, more: NodeJS.ProcessEnv = {}): Promise<string[]> {
  const env = environment(more);
  if (shell === 'fish') {
    const script = 'source $argv[1]; complete -C $argv[2]';
    const args = ['--no-config', '-c', script, `${scripts}forkd.fish`, line];
    const child = spawn('fish', args, { env, cwd: here, stdio: ['ignore', 'pipe', 'ignore'] });
    const stdout = await text(child.stdout);
    return stdout.split('\n').flatMap((row) => (row === '' ? [] : [row.split('\t')[0] ?? '']));
  }
  const shown = await onTerminal(shell, line, env);
  const kept = line.slice(0, line.lastIndexOf(' ') + 1);
  expect(shown.startsWith(kept)).toBe(true);
  const words = shown.slice(kept.length).trim().split(/\s+/);
  // What is still there unchanged was not completed.
  return words.length === 1 && words[0] === line.slice(kept.length) ? [] : words;
}

/** The line after all candidates of its last word have been put in. */
async function onTerminal(shell: 'bash' | 'zsh', line: string, env: NodeJS.ProcessEnv): Promise<string> {
  const start = shell === 'bash' ? 'bash --norc --noprofile -i' : 'zsh -f -i';
  const child = spawn('script', ['-qec', start, '/dev/null'], { env, cwd: here, stdio: ['pipe', 'pipe', 'ignore'] });
  let output = '';
  const seen = (pattern: RegExp) =>
    new Promise<RegExpExecArray>((resolve, reject) => {
      const look = () => {
        const match = pattern.exec(output);
        if (match !== null) resolve(match);
      };
      child.stdout.on('data', look);
      child.once('close', () => reject(new Error(`${shell} ended; it said: ${output}`)));
      look();
    });
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  try {
    child.stdin.write(`PS1='> '; stty -echo cols 1000; eval "$SETUP"; echo rea''dy\n`);
    await seen(/^ready/m);
    child.stdin.write(`${line}\u0001\u0018`);
    return (await seen(/<<(.*)>>/))[1] ?? '';
  } finally {
    child.kill('SIGKILL');
  }
}

beforeAll(async () => {
  const program = join(here, 'forkd');
  await writeFile(program, `#!/bin/sh\nexec ${process.execPath} ${MAIN} "$@"\n`);
  await chmod(program, 0o755);
});

beforeEach(() => {
  fake.addSnapshot('pypy');
  fake.addSandbox('sb-00000000b0').name = 'web';
  fake.overrides.set('GET /v1/workspaces', (_, response) => {
    response.end(JSON.stringify([{ name: 'dev', status: 'running' }]));
  });
});

describe.each(shells)('in %s', (shell) => {
  const cases: [string, string[]][] = [
    ['forkd snapshot-', ['snapshot-compact', 'snapshot-diff', 'snapshot-info']],
    ['forkd workspace s', ['suspend']],
    ['forkd workspace --js', ['--json']],
    ['forkd fork --on-expire ', ['kill', 'pause']],
    ['forkd completion ', ['bash', 'fish', 'zsh']],
    ['forkd fork py', ['pypy', 'python']],
    ['forkd fork -n 3 --tag pyt', ['python']],
    ['forkd spawn --count 2 pyt', ['python']],
    ['forkd --quiet kill web sb-00000000a', ['sb-00000000aa', 'sb-00000000ab']],
    ['forkd exec w', ['web']],
    ['forkd workspace suspend ', ['dev']],
    ['forkd ls --state p', ['paused']],
    ['forkd from-image bu', ['busybox']],
  ];

  // A host that is too busy to answer in time offers nothing, and whoever has pressed Tab presses it again.
  test.for(cases)('completes "%s"', { retry: 2 }, async ([line, expected], { skip }) => {
    if (isMissing(shell)) skip(`${shell} is not on this host (Debian package ${shell})`);
    const env = { SETUP: shell === 'fish' ? '' : setUp[shell] };
    expect((await candidates(shell, line, env)).toSorted()).toEqual(expected);
  });

  test('asks the controller that the line names, and is silent where none answers', async ({ skip }) => {
    if (isMissing(shell)) skip(`${shell} is not on this host (Debian package ${shell})`);
    const env = { SETUP: shell === 'fish' ? '' : setUp[shell], FORKD_URL: 'http://127.0.0.1:9' };
    const noneAnswers = await candidates(shell, 'forkd kill w', env);
    expect(noneAnswers).toEqual([]);
    expect(await candidates(shell, `forkd --daemon-url ${fake.url} kill w`, env)).toEqual(['web']);
    // Not in zsh, which offers nothing behind an option with its value in the same word.
    if (shell === 'zsh') return;
    expect(await candidates(shell, `forkd kill --daemon-url=${fake.url} w`, env)).toEqual(['web']);
  });
});

describe('__complete', () => {
  test('prints names with what they are, and nothing where it fails', async () => {
    const names = await forkd(['__complete', 'sandbox']);
    expect(names.stdout.toString()).toBe(
      `${ID}\tpython\nsb-00000000ab\tpython\nweb\tsb-00000000b0\nsb-00000000b0\tpy\n`,
    );
    fake.overrides.set('GET /v1/snapshots', (_, response) => void response.writeHead(500).end('broken'));
    expect(await forkd(['__complete', 'snapshot'])).toMatchObject({ code: 0, stderr: '', stdout: Buffer.alloc(0) });
  });

  test('starts no controller, and waits for none that hangs', async () => {
    const env = { FORKD_URL: '', FORKD_DATA_DIR: join(here, 'nothing') };
    expect(await forkd(['__complete', 'sandbox'], { env })).toMatchObject({ code: 0, stderr: '' });
    fake.overrides.set('GET /v1/sandboxes', () => {});
    expect(await forkd(['__complete', 'sandbox'])).toMatchObject({ code: 0, stderr: '', stdout: Buffer.alloc(0) });
  });
});
