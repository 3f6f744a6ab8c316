import type { Check } from '../check.ts';
import { buildOf, type Facts, unanswered } from '../facts.ts';
import { runProgram } from '../programs.ts';
import { aptInstall, fail, pass, skip, type Finding } from '../row.ts';
import { acceleratorFinding } from './accelerator.ts';

/** The oldest QEMU that restore was developed with. Older ones may lack features that it needs. */
const QEMU_MAJOR_MIN = 7;
/** Exit status of a VMM whose shim has failed: `EXIT_STATUS` in the shim. */
const SHIM_GAVE_UP = 97;
const QEMU_FIX = aptInstall(['qemu-system-x86']);
const NO_QEMU = 'no sandbox can be run without QEMU; snapshots can be listed and removed';

export const engineChecks: readonly Check[] = [
  { id: 'engine_binary', look: binary },
  { id: 'engine_version', look: version },
  { id: 'shim', look: shim },
  { id: 'accelerator', look: acceleratorFinding },
];

async function binary(facts: Facts): Promise<Finding> {
  const { file, error } = await facts.qemu();
  if (file === undefined) return fail('qemu-system-x86_64 is not on the PATH', NO_QEMU, QEMU_FIX);
  if (error !== undefined) return fail(`${file} does not start: ${error}`, NO_QEMU, QEMU_FIX);
  return pass(file);
}

async function version(facts: Facts): Promise<Finding> {
  const { file, version: found } = await facts.qemu();
  if (file === undefined) return skip('there is no QEMU to ask');
  if (found === undefined) return fail(`${file} tells no version`, NO_QEMU, QEMU_FIX);
  if (Number.parseInt(found) >= QEMU_MAJOR_MIN) return pass(`QEMU ${found}`);
  return fail(`QEMU ${found}`, `forks need QEMU ${QEMU_MAJOR_MIN} or newer: use a newer release of the distribution`);
}

/**
 * Tests the shim by loading it into QEMU without its memory file. A loaded shim then prints an error and exits with its own
 * status. If QEMU did not load the shim, or the shim has no work, QEMU prints its version and exits with 0.
 */
async function shim(facts: Facts): Promise<Finding> {
  const { file: qemu } = await facts.qemu();
  const natives = await facts.natives();
  const hint = 'no sandbox can be run, since the shim gives QEMU its memory; build it again for this host';
  if (qemu === undefined) return skip('there is no QEMU to load it into');
  if ('said' in natives) return skip(unanswered(natives));
  const { shim: library } = natives;
  const preload = { ...facts.env, LD_PRELOAD: library.file };
  const called = { FORKD_SHIM_SANDBOX: 'doctor', FORKD_SHIM_KEY: 'none', FORKD_SHIM_SOCKET: '/dev/null' };
  const call = { ...preload, ...called, FORKD_SHIM_MEM_BYTES: '4096' };
  const { signal } = facts;
  const inert = await runProgram(qemu, ['--version'], { env: preload, signal });
  const loaded = await runProgram(qemu, ['--version'], { env: call, signal });
  const hasAnswered = loaded.status === SHIM_GAVE_UP && loaded.stderr.startsWith('forkd-shim: ');
  if (hasAnswered && inert.status === 0) return pass(`${library.file} was loaded into ${qemu}`);
  const said = (loaded.error ?? loaded.stderr).trim().split('\n')[0] || `QEMU ended with ${loaded.status}`;
  return fail(`${library.file} does not work in ${qemu}: ${said}`, hint, buildOf(library));
}
