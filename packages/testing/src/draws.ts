/** Values that programs in sandboxes draw, and which of them two machines have in common. */
import { readFile } from 'node:fs/promises';
import type { CommandInfo } from '@forkd/api';
import type { ForkdClient } from '@forkd/sdk';
import { until } from './controller.ts';
import { BUILT } from './paths.ts';

const PROGRAM = '/root/draws';
/** Directory of the notes. */
const DIR = '/tmp';
const NOTE_BYTES = 32;
const DRAW_TIMEOUT_MS = 60_000;

export interface DrawOptions {
  /** The source to read. Default: `/dev/urandom`. */
  source?: string;
  /** Bytes per read; the last 16 are noted. Default: 16. */
  bytes?: number;
  /** Pause between two reads, in microseconds. Default: 1,000. */
  restUs?: number;
  /** Programs that draw at the same time. Default: 1. */
  programs?: number;
}

/** A read: the program, when the read began and ended, and the value. */
interface Note {
  program: number;
  before: bigint;
  after: bigint;
  value: string;
}

/** Starts programs that draw values in a sandbox, and in each of its later children, until {@link notesOf} ends them. */
export async function startDraws(client: ForkdClient, id: string, options: DrawOptions = {}): Promise<void> {
  const { source = '/dev/urandom', bytes = 16, restUs = 1000, programs = 1 } = options;
  await client.writeFile(id, PROGRAM, await readFile(BUILT.draws), { mode: '0755' });
  for (let program = 0; program < programs; program += 1) {
    await client.startCommand(id, { args: [PROGRAM, source, String(bytes), String(restUs), outOf(program)] });
  }
}

/** Resolves when each program of a sandbox has noted `count` more values. */
export async function drawMore(client: ForkdClient, id: string, count: number): Promise<void> {
  const programs = (await runningDraws(client, id)).map((_, program) => program);
  const sizes = async (): Promise<number[]> => {
    const files = new Map((await client.listDir(id, DIR)).map(({ name, size }) => [name, size]));
    return programs.map((program) => files.get(nameOf(program)) ?? 0);
  };
  const before = await sizes();
  await until(`each program of ${id} has noted ${count} more values`, DRAW_TIMEOUT_MS, async () =>
    (await sizes()).every((size, program) => size - (before[program] ?? 0) >= count * NOTE_BYTES),
  );
}

/** Ends the programs of a sandbox, and returns all that they have noted. */
export async function notesOf(client: ForkdClient, id: string): Promise<Note[]> {
  const running = await runningDraws(client, id);
  for (const command of running) await client.signalCommand(id, command.id, 'KILL');
  const notes: Note[] = [];
  for (let program = 0; program < running.length; program += 1) {
    const bytes = Buffer.from(await client.readFile(id, outOf(program)));
    for (let at = 0; at + NOTE_BYTES <= bytes.length; at += NOTE_BYTES) {
      const value = bytes.toString('hex', at + 16, at + NOTE_BYTES);
      notes.push({ program, before: bytes.readBigUInt64LE(at), after: bytes.readBigUInt64LE(at + 8), value });
    }
  }
  return notes;
}

/** Values that two machines of one origin have in common. */
export interface Common {
  /** Reads from before the instant that separated the machines. */
  before: Note[];
  /** Reads that were under way at the instant and drew the same value in both machines. */
  inFlight: number;
  /** Values that both machines have drawn after the instant, at any position. */
  duplicates: number;
  /** Reads of `b` after the instant. */
  since: Note[];
}

export function compare(a: readonly Note[], b: readonly Note[]): Common {
  const byValue = new Map(a.map((note) => [note.value, note]));
  const begun = new Map(a.map((note) => [keyOf(note), note]));
  const common: Common = { before: [], inFlight: 0, duplicates: 0, since: [] };
  for (const note of b) {
    const same = begun.get(keyOf(note));
    if (same?.after === note.after && same.value === note.value) {
      common.before.push(note);
      continue;
    }
    common.since.push(note);
    const twin = byValue.get(note.value);
    if (twin === undefined) continue;
    if (keyOf(twin) === keyOf(note)) common.inFlight += 1;
    else common.duplicates += 1;
  }
  return common;
}

/** Programs of one origin can only have begun a read at the same time if they were one program then. */
function keyOf({ program, before }: Note): string {
  return `${program} ${before}`;
}

async function runningDraws(client: ForkdClient, id: string): Promise<CommandInfo[]> {
  const commands = await client.listCommands(id);
  return commands.filter((command) => command.running && command.args[0] === PROGRAM);
}

function nameOf(program: number): string {
  return `draws-${program}`;
}

function outOf(program: number): string {
  return `${DIR}/${nameOf(program)}`;
}
