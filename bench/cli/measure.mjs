// `node bench/cli/measure.mjs [--before CHECKOUT] [--iterations N] [--out FILE]`: what short commands cost; see README.md.
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs, promisify } from 'node:util';

const REPO = resolve(import.meta.dirname, '../..');
const SANDBOX = 'sb-00000000aa';
const { values: options } = parseArgs({
  options: { before: { type: 'string' }, iterations: { type: 'string', default: '20' }, out: { type: 'string' } },
});

const dataDir = await mkdtemp(join(os.tmpdir(), 'fk-'));
const server = await serve(join(dataDir, 'run/controller.sock'));
try {
  const commands = [
    { what: 'node -e 0', program: process.execPath, args: ['-e', '0'] },
    ...programsOf(REPO, '', 'bundle/forkd.js', 'bundle/forkd-controller.js'),
    ...(options.before === undefined
      ? []
      : programsOf(resolve(options.before), ', before', 'dist/main.js', 'dist/main.js')),
  ];
  const runs = commands.map(() => /** @type {{ cpu: number, wall: number }[]} */ ([]));
  // By turns: what else runs on the host slows all of them alike. The first turn fills the caches of files.
  for (let turn = 0; turn <= Number(options.iterations); turn += 1) {
    for (const [index, { program, args }] of commands.entries()) {
      const run = await time(program, args);
      if (turn > 0) runs[index]?.push(run);
    }
  }
  const node = median((runs[0] ?? []).map(({ cpu }) => cpu));
  const rows = commands.map(({ what }, index) => {
    const cpu = (runs[index] ?? []).map((run) => run.cpu);
    const wall = (runs[index] ?? []).map((run) => run.wall);
    const ratio = Number((median(cpu) / node).toFixed(2));
    return { what, cpu_ms: spread(cpu), wall_ms: spread(wall), cpu_ratio_to_node: ratio };
  });
  const report = {
    command: `node bench/cli/measure.mjs --iterations ${options.iterations}${options.before ? ' --before CHECKOUT' : ''}`,
    node: process.version,
    cpus: os.availableParallelism(),
    load_average: os.loadavg().map((load) => Number(load.toFixed(1))),
    iterations: Number(options.iterations),
    rows,
  };
  console.table(
    rows.map(({ what, cpu_ms: cpu, wall_ms: wall, cpu_ratio_to_node: ratio }) => {
      return {
        what,
        'CPU ms p50': cpu.p50,
        'min–max': `${cpu.min}–${cpu.max}`,
        'wall ms p50': wall.p50,
        'CPU / node': ratio,
      };
    }),
  );
  if (options.out !== undefined) await writeFile(options.out, `${JSON.stringify(report, null, 2)}\n`);
} finally {
  server.closeAllConnections();
  await new Promise((closed) => server.close(closed));
  await rm(dataDir, { recursive: true, force: true });
}

/** @param {string} checkout @param {string} when @param {string} cli @param {string} controller */
function programsOf(checkout, when, cli, controller) {
  const forkd = join(checkout, 'packages/cli', cli);
  const daemon = join(checkout, 'packages/controller', controller);
  return [
    { what: `forkd ls${when}`, program: process.execPath, args: [forkd, 'ls'] },
    {
      what: `forkd exec SANDBOX -- true${when}`,
      program: process.execPath,
      args: [forkd, 'exec', SANDBOX, '--', 'true'],
    },
    { what: `forkd --version${when}`, program: process.execPath, args: [forkd, '--version'] },
    { what: `forkd-controller --version${when}`, program: process.execPath, args: [daemon, '--version'] },
  ];
}

/**
 * The processor time and the duration of one run, in milliseconds, as the kernel counts them for the shell that waits for it.
 * @param {string} program @param {string[]} args
 */
async function time(program, args) {
  const env = { ...process.env, FORKD_URL: '', FORKD_SOCKET: '', FORKD_DATA_DIR: dataDir, NO_COLOR: '1' };
  const script = 'TIMEFORMAT="%3U %3S %3R"; { time "$@" >/dev/null 2>"$0" || exit; } 2>&1';
  const { stdout } = await promisify(execFile)('bash', ['-c', script, join(dataDir, 'stderr'), program, ...args], {
    env,
  });
  const [user = 0, system = 0, wall = 0] = stdout.trim().split(' ').map(Number);
  return { cpu: Math.round((user + system) * 1000), wall: Math.round(wall * 1000) };
}

/** A server in place of a controller: its work is not part of what is measured. @param {string} socket */
async function serve(socket) {
  await mkdir(dirname(socket));
  const info = { id: SANDBOX, snapshot_tag: 'py', created_at_unix: 1, pid: 1, branch_count: 0 };
  const ended = { type: 'exit', exit_code: 0, signal: null, timed_out: false };
  const listener = http.createServer((request, response) => {
    request.resume();
    if (request.url === '/healthz') response.end('{"ok":true}');
    else if (request.method === 'GET') response.end(JSON.stringify([info]));
    else if (request.method === 'DELETE') response.writeHead(204).end();
    else {
      response.writeHead(201, { 'content-type': 'application/x-ndjson' });
      response.end(`${JSON.stringify({ type: 'started', id: 'c-1', pid: 1 })}\n${JSON.stringify(ended)}\n`);
    }
  });
  await new Promise((listening) => listener.listen(socket, () => listening(undefined)));
  return listener;
}

/** @param {readonly number[]} values */
function median(values) {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** @param {readonly number[]} values */
function spread(values) {
  return { p50: median(values), min: Math.min(...values), max: Math.max(...values) };
}
