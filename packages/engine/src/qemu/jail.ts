import { execFile } from 'node:child_process';
import { access, constants, mkdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import { EngineError, REINSTALL_HINT } from '../errors.ts';
import type { Isolation } from '../types.ts';

/** System calls that QEMU gives up once it is set up, because no VM needs them. */
const SECCOMP = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny';

/** The launcher and QEMU say within this time what they can do. */
const PROBE_TIMEOUT_MS = 20_000;

const SECCOMP_MEANING = 'A VMM starts no programs, and changes neither its user nor its priorities.';

/** How to start a VMM in its jail. */
export interface Confined {
  /** The directory of its sockets and logs. */
  dir: string;
  shim: string;
  /** Where its shim calls the pager. */
  pagerSocket: string;
  rootImage: string;
  memBytes: number;
  /** Files that it gets a copy of, as `fileFd` counts them. */
  files: readonly string[];
  /** The socket to which the other end of its network wire goes, and the wire's name there. */
  network?: { socket: string; key: string } | undefined;
  /** A cgroup that is there. */
  cgroup?: string | undefined;
  program: string;
  args: readonly string[];
}

/** The launcher of VMMs, `forkd-jail`, with what it can take from them on this host. */
export class Jail {
  /** The path at which a VMM finds the directory of the sockets of the pager and the disk server. Twins of `PAGER` and `PAGER_DIR` in `crates/vmm-jail/src`. */
  readonly pagerDir: string;
  /** The isolation measures, and whether each is in force. */
  readonly isolation: readonly Isolation[];
  readonly launcher: string;
  readonly #steps: string;
  readonly #seccomp: readonly string[];

  private constructor(launcher: string, steps: readonly Isolation[], seccomp: Isolation) {
    this.launcher = launcher;
    this.isolation = [...steps, seccomp];
    this.pagerDir = steps.some(({ id, ok }) => id === 'mount_namespace' && ok) ? '/pager' : '/proc/self/fd/109';
    this.#steps = steps.flatMap(({ id, ok }) => (ok ? [id] : [])).join(',');
    this.#seccomp = seccomp.ok ? ['-sandbox', SECCOMP] : [];
  }

  /** Tries what the host allows. `dir` is a directory of the caller's. Throws `engine_missing` without the launcher. */
  static async open(launcher: string, program: string, dir: string, signal?: AbortSignal): Promise<Jail> {
    await mkdir(dir, { recursive: true });
    const [steps, seccomp] = await Promise.all([probe(launcher, dir, signal), probeSeccomp(program, signal)]);
    return new Jail(launcher, steps, seccomp);
  }

  /** The command line that starts a VMM with all that was found to work; it fails rather than start one with less. */
  arguments(vmm: Confined): string[] {
    return [
      ['run', '--dir', vmm.dir, '--shim', vmm.shim, '--pager-socket', vmm.pagerSocket],
      ['--root-image', vmm.rootImage, '--mem-bytes', String(vmm.memBytes), '--steps', this.#steps],
      vmm.cgroup === undefined ? [] : ['--cgroup', vmm.cgroup],
      vmm.files.flatMap((file) => ['--file', file]),
      vmm.network === undefined ? [] : ['--net-socket', vmm.network.socket, '--net-key', vmm.network.key],
      ['--', vmm.program, ...this.#seccomp, ...vmm.args],
    ].flat();
  }
}

function inProbe(signal: AbortSignal | undefined) {
  return { timeout: PROBE_TIMEOUT_MS, killSignal: 'SIGKILL', ...(signal && { signal }) } as const;
}

async function probe(launcher: string, dir: string, signal: AbortSignal | undefined): Promise<Isolation[]> {
  try {
    await access(launcher, constants.X_OK);
    const { stdout } = await promisify(execFile)(launcher, ['probe', dir], inProbe(signal));
    return JSON.parse(stdout) as Isolation[];
  } catch (cause) {
    signal?.throwIfAborted();
    throw new EngineError('engine_missing', `The launcher ${launcher} does not say what this host allows.`, {
      hint: REINSTALL_HINT,
      cause,
    });
  }
}

/** Whether this QEMU can filter its own calls, which it does before it answers. */
async function probeSeccomp(program: string, signal: AbortSignal | undefined): Promise<Isolation> {
  const args = ['-sandbox', SECCOMP, '-M', 'none', '-display', 'none', '-device', 'help'];
  try {
    await promisify(execFile)(program, args, inProbe(signal));
    return { id: 'seccomp', ok: true, detail: SECCOMP_MEANING };
  } catch (error) {
    signal?.throwIfAborted();
    const said = (error as { stderr?: string }).stderr?.trim().split('\n').at(-1) ?? String(error);
    return { id: 'seccomp', ok: false, detail: `${program} refuses it: ${said}` };
  }
}
