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
    this.colors = pc.createColors(streams.stdout.isTTY && options.env['NO_COLOR'] === undefined);
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
      ),
    );
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

/** Writes bytes, and waits where the reader is slower. */
export async function writeBytes(stream: Writable, bytes: Uint8Array): Promise<void> {
  if (!stream.write(bytes)) await once(stream, 'drain');
}
