// Proves of `forkd doctor --fix` that it asks on a terminal before each command, runs those that were answered with y and no
// others, shows what they print, and looks again; and that nothing is asked or run without a terminal. The terminal is a real
// one, of script(1), and the commands are those that the rows print, in mount namespaces of their own where they write to the
// kernel.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { beforeAll, describe, expect, test } from 'vitest';
import { after, MAIN, pathWith, whyNoMounts } from './support/doctor.ts';
import { forkd, here, serveForkd } from './support/forkd.ts';

serveForkd();

const QEMU = 'qemu-system-x86_64';
const PROMPT = /(\w+): run (.+) \? \[y\/N\] $/;

let noMounts: string | undefined;
beforeAll(() => (noMounts = whyNoMounts()));

interface Asked {
  code: number | null;
  output: string;
  asked: string[];
}

/** Answers y to the rows in `wanted`, and to others with what is given. */
async function fixOnTerminal(
  wanted: readonly string[],
  host: { through?: readonly string[]; env?: NodeJS.ProcessEnv; otherwise?: string } = {},
): Promise<Asked> {
  const { through = [], otherwise = 'n\n' } = host;
  const line = `exec "${process.execPath}" "${MAIN}" doctor --fix --data-dir "${join(here, 'data')}"`;
  const [program, ...args] = [...through, 'script', '-qec', line, '/dev/null'];
  const env = { ...process.env, FORKD_URL: '', FORKD_SOCKET: '', SHELL: '/bin/sh', NO_COLOR: '1', ...host.env };
  const child = spawn(program, args, { env, cwd: here, stdio: ['pipe', 'pipe', 'inherit'] });
  const asked: string[] = [];
  let [output, answeredTo] = ['', 0];
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
    const id = PROMPT.exec(output.slice(answeredTo))?.[1];
    if (id === undefined) return;
    answeredTo = output.length;
    asked.push(id);
    child.stdin.write(wanted.includes(id) ? 'y\n' : otherwise);
  });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, output: stripVTControlCharacters(output).replaceAll('\r', ''), asked };
}

describe('without a terminal', () => {
  test('asks and runs nothing, and says why', async () => {
    const { code, stderr, stdout } = await forkd(['doctor', '--fix'], { stdin: 'y\ny\n' });
    expect({ code, stdout: stdout.toString() }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('--fix asks before each command, and stdin is not a terminal');
  });

  test('cannot be asked for as JSON', async () => {
    const { code, stderr } = await forkd(['doctor', '--fix', '--json']);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining('--json') });
  });
});

describe('on a terminal', () => {
  test('runs what was answered with y, shows its output, and looks again', async ({ skip }) => {
    skip(noMounts !== undefined, noMounts);
    const files = await mkdtemp(join(here, 'kernel-'));
    const [mapCount, ksm] = [join(files, 'max_map_count'), join(files, 'ksm')];
    await writeFile(mapCount, '1000\n');
    await writeFile(ksm, '1\n');
    const through = after(
      `mount --bind ${mapCount} /proc/sys/vm/max_map_count`,
      `mount --bind ${ksm} /sys/kernel/mm/ksm/run`,
    );
    const first = await fixOnTerminal(['max_map_count'], { through });
    expect(first.asked).toEqual(expect.arrayContaining(['max_map_count', 'ksm']));
    expect(first.output).toContain('max_map_count: run sysctl -w vm.max_map_count=262144 ?');
    expect(first.output).toContain('vm.max_map_count = 262144');
    const [before = '', again = ''] = first.output.split('vm.max_map_count = 262144');
    expect(before).toMatch(/! +max_map_count +warn/);
    expect(again).toMatch(/✓ +max_map_count +pass/);
    expect(again).toMatch(/! +ksm +warn/);
    expect(await readFile(mapCount, 'utf8')).toBe('262144\n');
    expect(await readFile(ksm, 'utf8')).toBe('1\n');
    // A command with an input of its own.
    const second = await fixOnTerminal(['ksm'], { through });
    expect(second.asked).not.toContain('max_map_count');
    expect(await readFile(ksm, 'utf8')).toBe('2\n');
  });

  test('ends as the last look says; a row that another command has mended is not offered', async () => {
    const missing = [QEMU, 'mkfs.erofs'];
    const PATH = await pathWith({}, ...missing, 'apt-get');
    // What installing does, as far as rows see it; this one brings more than it was asked for.
    const links = missing.map((name) => `ln -s "$(command -v ${name})" ${PATH}/${name}`);
    const install = ['#!/bin/sh', 'echo "got: $*"', `PATH=${process.env['PATH']}`, ...links, ''].join('\n');
    await writeFile(join(PATH, 'apt-get'), install, { mode: 0o755 });
    const env = { PATH };
    const refused = await fixOnTerminal([], { env });
    expect(refused.asked).toEqual(expect.arrayContaining(['engine_binary', 'image_tools']));
    expect(refused.code).toBe(1);
    expect(refused.output).not.toContain('got:');
    const accepted = await fixOnTerminal(['engine_binary'], { env });
    expect(accepted.output).toContain('got: install -y --no-install-recommends qemu-system-x86');
    expect(accepted.output).toMatch(/✗ +engine_binary +fail[^]*✓ +engine_binary +pass/);
    expect(accepted.asked).not.toContain('image_tools');
    expect(accepted.code).toBe(0);
  });

  test('says when a command has failed, and takes the end of the input for a no', async () => {
    const PATH = await pathWith({ 'apt-get': '#!/bin/sh\necho no mirror\nexit 100\n' }, 'skopeo', QEMU);
    const failed = await fixOnTerminal(['engine_binary'], { env: { PATH }, otherwise: '\u0004' });
    expect(failed.output).toContain('no mirror');
    expect(failed.output).toContain('warning: apt-get ended with status 100');
    expect(failed.asked).toEqual(expect.arrayContaining(['engine_binary', 'image_tools']));
    expect(failed.code).toBe(1);
  });
});
