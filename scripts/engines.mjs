// Writes the table of what each engine can do into docs/operate/engines.md:  node scripts/engines.mjs
// The table comes from the functions that decide, as `tsc -b` has built them: for a host that has everything, and for one host per
// thing that may be missing.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { firecrackerCapabilities, qemuCapabilities } from '../packages/engine/dist/index.js';
import { repoRoot } from './lib/terminal.mjs';

const PAGE = join(repoRoot, 'docs/operate/engines.md');
const MARK = '<!-- The table below is made';

const NO_LIMIT = { lack: { limitUnavailable: 'why' }, condition: 'if the host has a memory cgroup' };
const EXTENSIONS = { sharedMemory: true, vmstateOnly: true, writeProtect: true };

/** Each column: its rules, a host that has everything, and what a host may lack. */
const columns = [
  {
    title: 'QEMU',
    rules: qemuCapabilities,
    host: {
      liveUnavailable: null,
      limitUnavailable: null,
      networkUnavailable: null,
      pooled: true,
      insideUnavailable: null,
      disks: true,
    },
    lacks: [
      { lack: { liveUnavailable: 'why' }, condition: 'if userfaultfd protects shared memory on the host' },
      { lack: { insideUnavailable: 'why' }, condition: 'with QEMU 7.2, once a trial VM has proved it' },
      NO_LIMIT,
      { lack: { pooled: false }, condition: 'unless `--vmm-pool` is 0' },
    ],
  },
  {
    title: 'Firecracker, as published',
    rules: firecrackerCapabilities,
    host: {
      features: { version: '1.13.1', sharedMemory: false, vmstateOnly: false, writeProtect: false },
      handover: 'it was not tried.',
      limitUnavailable: null,
      jailed: false,
    },
    lacks: [NO_LIMIT],
  },
  {
    title: 'Firecracker with the live extensions',
    rules: firecrackerCapabilities,
    host: { features: { version: '1.13.1', ...EXTENSIONS }, handover: true, limitUnavailable: null, jailed: false },
    lacks: [
      NO_LIMIT,
      { lack: { jailed: true }, condition: 'without its jailer' },
      { lack: { handover: 'why' }, condition: 'if its system call filters allow userfaultfd' },
    ],
  },
];

const meanings = {
  full: 'a branch that copies all of memory in the pause',
  diff: 'a branch that copies what changed, in the pause',
  live: 'a branch that copies while the source keeps running',
  window_inside: 'the pause of a live branch is conducted inside QEMU, and waiting VMMs load snapshots ahead',
  pause: 'a sandbox is stopped until it is resumed',
  memory_limit: '`memory_limit_mib` of a fork',
  disk: '`disk_gib` of a template: a disk that branches capture',
  network: 'a network device, and rules for what it reaches',
  pool: 'VMMs that wait for the next fork',
  floor: 'measures the lower bound of a pause',
};

const head = ['', ...columns.map(({ title }) => title)];
const rows = Object.entries(meanings).map(([id, meaning]) => [
  `\`${id}\`: ${meaning}`,
  ...columns.map((column) => cellOf(id, column)),
]);
const unknown = columns.flatMap(({ rules, host }) => Object.keys(rules(host)).filter((id) => !(id in meanings)));
if (unknown.length > 0) throw new Error(`scripts/engines.mjs does not say what these mean: ${unknown.join(', ')}`);

const page = readFileSync(PAGE, 'utf8');
const end = page.indexOf('\n', page.indexOf(MARK)) + 1;
if (!page.includes(MARK)) throw new Error(`${PAGE} has no line that begins with ${MARK}`);
const lines = [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`);
writeFileSync(PAGE, `${page.slice(0, end)}\n${lines.join('\n')}\n`);

/** @param {string} id @param {typeof columns[number]} column */
function cellOf(id, { rules, host, lacks }) {
  const can = rules(host)[id];
  if (can !== true) return `no: ${can}`;
  const needed = lacks.filter(({ lack }) => rules({ ...host, ...lack })[id] !== true);
  return ['yes', ...needed.map(({ condition }) => condition)].join(', ');
}
