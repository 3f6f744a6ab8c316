import { once } from 'node:events';
import type { Writable } from 'node:stream';
import pc from 'picocolors';
import { formatTable } from './text.ts';

export type Streams = { stdin: NodeJS.ReadStream; stdout: NodeJS.WriteStream; stderr: NodeJS.WriteStream };

/** Results go to stdout, everything that is said about them to stderr: a pipe gets results only. */
export class Output {
  readonly streams: Streams;
  readonly isQuiet: boolean;
  readonly isJson: boolean;
  readonly colors: ReturnType<typeof pc.createColors>;

  constructor(streams: Streams, options: { isQuiet: boolean; isJson: boolean; env: NodeJS.ProcessEnv }) {
    this.streams = streams;
    this.isQuiet = options.isQuiet;
    this.isJson = options.isJson;
    // A stream that is no terminal does not know the word at all, and picocolors would guess.
    this.colors = pc.createColors(hasColors(streams, options.env) ?? false);
  }

  /** A line of the result. */
  line(text: string): void {
    this.streams.stdout.write(`${text}\n`);
  }

  json(value: unknown): void {
    this.line(JSON.stringify(value, null, 2));
  }

  table(header: readonly string[], rows: readonly (readonly string[])[]): void {
    this.line(
      formatTable(
        header.map((cell) => this.colors.bold(cell)),
        rows,
        this.streams.stdout.isTTY ? this.streams.stdout.columns : undefined,
      ),
    );
  }

  /** One thing in words, a line each; what is not known is left out. */
  fields(values: Readonly<Record<string, string | undefined>>): void {
    const known = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined);
    const columns = Math.max(...known.map(([name]) => name.length));
    for (const [name, value] of known) this.line(`${this.colors.bold(name.padEnd(columns))}  ${value}`);
  }

  /** A remark for a person: not with -q, nor beside JSON. */
  note(text: string): void {
    if (!this.isQuiet && !this.isJson) this.streams.stderr.write(`${text}\n`);
  }

  /** What the user has to know even with -q. */
  warn(text: string): void {
    this.streams.stderr.write(`warning: ${text}\n`);
  }
}

/** NO_COLOR goes before FORCE_COLOR; an empty one of either says nothing. */
function hasColors(streams: Streams, env: NodeJS.ProcessEnv): boolean | undefined {
  if (env['NO_COLOR']) return false;
  const forced = env['FORCE_COLOR'];
  return forced ? forced !== '0' : streams.stdout.isTTY;
}

/** Writes bytes, and waits where the reader is slower. */
export async function writeBytes(stream: Writable, bytes: Uint8Array): Promise<void> {
  if (!stream.write(bytes)) await once(stream, 'drain');
}
