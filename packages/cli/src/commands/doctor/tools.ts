import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { fail, pass, warn, type Row } from './row.ts';

const run = promisify(execFile);
const QEMU = 'qemu-system-x86_64';
/** What facts were measured on; older ones may lack what the restore needs. */
const QEMU_MAJOR_MIN = 7;
const VERSION_TIMEOUT_MS = 10_000;

/** The programs that make images, the Debian package of each, and what is lost without it. */
const imageTools = [
  { program: 'mkfs.erofs', package: 'erofs-utils', use: 'any image' },
  { program: 'cpio', package: 'cpio', use: 'the initramfs' },
  { program: 'zstd', package: 'zstd', use: 'compressed layers' },
  { program: 'mmdebstrap', package: 'mmdebstrap', use: 'the built-in recipes' },
  { program: 'skopeo', package: 'skopeo', use: 'registries and archives' },
  { program: 'umoci', package: 'umoci', use: 'OCI images' },
] as const;

export async function checkTools(env: NodeJS.ProcessEnv): Promise<Row[]> {
  return [await qemuRow(env), await imageToolsRow(env)];
}

async function qemuRow(env: NodeJS.ProcessEnv): Promise<Row> {
  const hint = 'apt-get install qemu-system-x86';
  const file = await findProgram(QEMU, env);
  if (file === undefined) return fail('qemu', `${QEMU} is not installed`, hint);
  try {
    const { stdout } = await run(file, ['--version'], { timeout: VERSION_TIMEOUT_MS });
    const version = /version (\d+)\.(\S+)/.exec(stdout);
    if (version === null) return warn('qemu', `${file} tells no version`, hint);
    const detail = `${version[1]}.${version[2]} at ${file}`;
    if (Number(version[1]) < QEMU_MAJOR_MIN) return fail('qemu', detail, `QEMU ${QEMU_MAJOR_MIN} or newer is needed`);
    return pass('qemu', detail);
  } catch (error) {
    return fail('qemu', `${file} does not start: ${error instanceof Error ? error.message : String(error)}`, hint);
  }
}

async function imageToolsRow(env: NodeJS.ProcessEnv): Promise<Row> {
  const found = await Promise.all(imageTools.map((tool) => findProgram(tool.program, env)));
  const missing = imageTools.filter((_, index) => found[index] === undefined);
  if (missing.length === 0) return pass('image_tools', imageTools.map((tool) => tool.program).join(', '));
  const detail = `missing: ${missing.map((tool) => `${tool.program} (${tool.use})`).join(', ')}`;
  return warn(
    'image_tools',
    detail,
    `apt-get install ${missing.map((tool) => tool.package).join(' ')}; snapshots that exist can still be forked`,
  );
}

async function findProgram(name: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  // The system's own directories are looked in too: a user's PATH often lacks sbin.
  const directories = [...(env['PATH'] ?? '').split(path.delimiter), '/usr/sbin', '/sbin'].filter(
    (entry) => entry !== '',
  );
  for (const directory of directories) {
    const file = path.join(directory, name);
    if (await isExecutable(file)) return file;
  }
  return undefined;
}

async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
