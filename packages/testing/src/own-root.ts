import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { REPO, TEST_CACHE } from './paths.ts';
import { killIfThere } from './process.ts';

/**
 * Mounts a writable layer over the host's root, covers the checkout, the host's own data directory and `/tmp`, prints the
 * process id, and waits as PID 1 of its namespace. The shell collects the processes whose parents have ended.
 */
const INIT = `
set -eu
read -r pid rest < /proc/self/stat
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
root="$1/root"
mount -t overlay none -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc none "$root/proc"
mount -t tmpfs none "$root/tmp"
mkdir -p "$root$2"
mount -t tmpfs none "$root$2"
rm -rf "$root/var/lib/forkd"
mkdir -p "$root/var/lib/forkd/cache"
mount --bind "$3" "$root/var/lib/forkd/cache"
echo "$pid"
exec chroot "$root" bash -c 'sleep infinity & wait'
`;

/** The outcome of a command: its exit code, and what it printed. */
export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * A root file system for one test: this host's own, with a layer of its own on top that takes every write, and without the
 * checkout. Its processes are in a namespace of their own and end with it. It shares the cache of kernels and images.
 */
export class OwnRoot implements AsyncDisposable {
  readonly #dir: string;
  readonly #init: ChildProcess;
  readonly #pid: string;

  private constructor(dir: string, init: ChildProcess, pid: string) {
    this.#dir = dir;
    this.#init = init;
    this.#pid = pid;
  }

  static async open(): Promise<OwnRoot> {
    await mkdir(TEST_CACHE, { recursive: true });
    const dir = await mkdtemp('/tmp/fk-root-');
    const namespaces = ['--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child'];
    const init = spawn('unshare', [...namespaces, 'bash', '-c', INIT, 'bash', dir, REPO, TEST_CACHE], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let said = '';
    init.stderr.on('data', (text: Buffer) => (said += text.toString()));
    const lines = createInterface({ input: init.stdout })[Symbol.asyncIterator]();
    const { value: pid, done = false } = await lines.next();
    if (done) throw new Error(`no root could be made: ${said}`);
    return new OwnRoot(dir, init, String(pid));
  }

  /** Runs a shell command in the root, as root, with nothing of this process' environment but the path to Node. */
  async run(command: string): Promise<Ran> {
    const path = `/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${dirname(process.execPath)}`;
    const inside = ['--target', this.#pid, '--mount', '--pid', '--root'];
    const args = [...inside, '--', 'env', '-i', '--chdir=/root', `PATH=${path}`, 'HOME=/root', 'sh', '-c', command];
    return new Promise((resolve) => {
      execFile('nsenter', args, { maxBuffer: 2 ** 24 }, (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
      });
    });
  }

  /** Runs a command that must succeed, and returns its output without the last line end. */
  async out(command: string): Promise<string> {
    const { code, stdout, stderr } = await this.run(command);
    if (code !== 0) throw new Error(`'${command}' ended with ${code}: ${stdout}${stderr}`);
    return stdout.trimEnd();
  }

  /** Copies a file of the host into the root. */
  async add(file: string, to: string): Promise<void> {
    const inside = ['--target', this.#pid, '--mount', '--', 'cp', '-r', file, join(this.#dir, 'root', to)];
    await new Promise<void>((resolve, reject) => {
      execFile('nsenter', inside, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#init, 'exit');
    // The mounts and the processes are in the namespaces of the init, and end with it.
    killIfThere(Number(this.#pid));
    await ended;
    await rm(this.#dir, { recursive: true });
  }
}
