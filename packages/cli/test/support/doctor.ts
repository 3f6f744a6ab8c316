// `forkd doctor` on a host that lacks something, by real means: a seccomp filter, a mount namespace in which files of the
// kernel are covered, a PATH with other programs on it, another user.
import { spawnSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { checks, lookAt } from '../../src/commands/doctor/checks.ts';
import { Facts } from '../../src/commands/doctor/facts.ts';
import { toRow, type Row } from '../../src/commands/doctor/row.ts';
import { Context } from '../../src/context.ts';
import { Interrupts } from '../../src/lib/interrupts.ts';
import { Output } from '../../src/output/output.ts';
import { here } from './forkd.ts';

export const MAIN = fileURLToPath(new URL('../../bundle/forkd.js', import.meta.url));
const DENY = fileURLToPath(new URL('../../../../target/release/forkd-deny', import.meta.url));
const STATUSES = ['pass', 'warn', 'fail', 'skip'] as const;

export interface Host {
  /** What starts the command, before it. */
  through?: readonly string[];
  env?: NodeJS.ProcessEnv;
  dataDir?: string;
}

/** One row alone, as this process finds it: for what an environment and a directory can change. */
export async function rowWith(id: string, host: Pick<Host, 'env' | 'dataDir'> = {}): Promise<Row> {
  const { env, dataDir = join(here, 'data') } = host;
  const check = checks.find((one) => one.id === id);
  if (check === undefined) throw new Error(`there is no row ${id}`);
  const all = { ...process.env, FORKD_URL: '', FORKD_SOCKET: '', ...env };
  const out = new Output(process, { isQuiet: true, isJson: true, env: all });
  const facts = new Facts(new Context({ out, env: all, interrupts: new Interrupts(), globals: { dataDir } }));
  return toRow(id, await lookAt(check, facts));
}

/** The rows on this host, changed as is said, with no controller unless `env` names one. */
export function doctorOn(host: Host = {}): Map<string, Row> {
  const { through = [], env, dataDir = join(here, 'data') } = host;
  const args = [process.execPath, MAIN, 'doctor', '--json', '--data-dir', dataDir];
  const [program = '', ...rest] = [...through, ...args];
  const all = { ...process.env, FORKD_URL: '', FORKD_SOCKET: '', ...env };
  const { status, stdout, stderr, error } = spawnSync(program, rest, { env: all, cwd: here, encoding: 'utf8' });
  if (error) throw error;
  expect(stderr).toBe('');
  const { rows } = JSON.parse(stdout) as { rows: Row[] };
  // Of every host: the exit code is what the rows say, and no row leaves out what is lost.
  expect(status).toBe(rows.some((row) => row.status === 'fail') ? 1 : 0);
  for (const row of rows) {
    expect(STATUSES).toContain(row.status);
    expect(row.detail).not.toBe('');
    if (row.status === 'warn' || row.status === 'fail') expect(row.hint).toBeTruthy();
    if (row.status === 'pass') expect(row).toMatchObject({ hint: null });
    if (row.status === 'pass') expect(row).not.toHaveProperty('fix');
  }
  return new Map(rows.map((row) => [row.id, row]));
}

/** Fails these calls for the command and all that it starts. */
export function without(...calls: string[]): string[] {
  return [DENY, ...calls, '--'];
}

/** Runs these lines first, as root in a mount namespace of its own: the host sees nothing of them. */
export function after(...lines: string[]): string[] {
  return ['unshare', '--mount', '--propagation', 'private', 'sh', '-euc', `${lines.join('\n')}\nexec "$@"`, 'sh'];
}

/** Why {@link after} cannot be had here; `undefined` where it can. */
export function whyNoMounts(): string | undefined {
  const [program, ...args] = [...after('mount -t tmpfs none /tmp'), 'true'];
  const { status, stderr, error } = spawnSync(program, args, { encoding: 'utf8' });
  if (status === 0) return undefined;
  return `mounts of its own cannot be made here: ${error?.message ?? stderr.trim()}`;
}

/** The line that puts a file with this text over another. */
export async function covering(target: string, text: string): Promise<string> {
  const file = join(await mkdtemp(join(here, 'cover-')), 'file');
  await writeFile(file, text);
  return `mount --bind ${file} ${target}`;
}

/** A directory of links to every program of the PATH but these; and with these scripts in it. */
export async function pathWith(scripts: Readonly<Record<string, string>>, ...absent: string[]): Promise<string> {
  const farm = await mkdtemp(join(here, 'path-'));
  const taken = new Set([...absent, ...Object.keys(scripts)]);
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    for (const name of await readdir(directory).catch(() => [])) {
      if (taken.has(name)) continue;
      taken.add(name);
      await symlink(resolve(directory, name), join(farm, name));
    }
  }
  for (const [name, text] of Object.entries(scripts)) {
    await writeFile(join(farm, name), text);
    await chmod(join(farm, name), 0o755);
  }
  return farm;
}

/** A data directory whose cache has a note of the kernel that was booted last. */
export async function dataDirWithKernel(vmlinuz: string, initramfs: string): Promise<string> {
  const dataDir = await mkdtemp(join(here, 'data-'));
  await mkdir(join(dataDir, 'cache'));
  await writeFile(join(dataDir, 'cache/guest-boot.json'), JSON.stringify({ vmlinuz, initramfs }));
  return dataDir;
}
