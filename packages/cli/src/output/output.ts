import { once } from 'node:events';
import type { Writable } from 'node:stream';
import { visibleJson, visibleLine, visibleText } from '@forkd/api/constants';
import pc from 'picocolors';
import { columnGroups, ellipsis, formatTable } from './text.ts';

const CLEAR_LINE = '\r\u001b[K';

export interface Streams {
  stdin: NodeJS.ReadStream;
  stdout: NodeJS.WriteStream;
  stderr: NodeJS.WriteStream;
}

/** Writes results to stdout and remarks to stderr, so that a pipe gets results only. */
export class Output {
  readonly streams: Streams;
  readonly isQuiet: boolean;
  readonly isJson: boolean;
  readonly colors: ReturnType<typeof pc.createColors>;
  #hasStatus = false;

  constructor(streams: Streams, options: { isQuiet: boolean; isJson: boolean; env: NodeJS.ProcessEnv }) {
    this.streams = streams;
    this.isQuiet = options.isQuiet;
    this.isJson = options.isJson;
    // `isTTY` is undefined on a stream that is not a terminal, and picocolors would then guess.
    this.colors = pc.createColors(hasColors(streams, options.env) ?? false);
  }

  /** Shows a line on the terminal of stderr. The next status or the next output replaces it. */
  status(text: string): void {
    const { stderr } = this.streams;
    stderr.write(`${CLEAR_LINE}${ellipsis(visibleLine(text), stderr.columns - 1)}`);
    this.#hasStatus = true;
  }

  /** Leaves the status, if there is one, on the screen. */
  keepStatus(): void {
    if (this.#hasStatus) this.streams.stderr.write('\n');
    this.#hasStatus = false;
  }

  #clearStatus(): void {
    if (this.#hasStatus) this.streams.stderr.write(CLEAR_LINE);
    this.#hasStatus = false;
  }

  /** Writes a line of the result. No control characters reach the terminal except our own colours. */
  line(text: string): void {
    const shown = this.colors.isColorSupported
      ? text.split(ownColor).map(visibleUnlessColor).join('')
      : visibleText(text);
    this.#clearStatus();
    this.streams.stdout.write(`${shown}\n`);
  }

  json(value: unknown): void {
    this.#clearStatus();
    this.streams.stdout.write(`${visibleJson(JSON.stringify(value, null, 2))}\n`);
  }

  /** Writes one of several values, one per line. */
  jsonLine(value: unknown): void {
    this.streams.stdout.write(`${visibleJson(JSON.stringify(value))}\n`);
  }

  table(header: readonly string[], rows: readonly (readonly string[])[]): void {
    this.line(
      formatTable(
        header.map((cell) => this.colors.bold(cell)),
        rows.map((row) => row.map(visibleLine)),
        this.streams.stdout.isTTY ? this.streams.stdout.columns : undefined,
      ),
    );
  }

  /** Writes a table whose columns nobody can ask for again: if the terminal is too narrow, as several tables. */
  wholeTable(header: readonly string[], rows: readonly (readonly string[])[]): void {
    const { isTTY, columns } = this.streams.stdout;
    columnGroups(header, rows, isTTY ? columns : Number.POSITIVE_INFINITY).forEach((group, index) => {
      const pick = (row: readonly string[]) => group.map((column) => row[column] ?? '');
      if (index > 0) this.line('');
      this.table(pick(header), rows.map(pick));
    });
  }

  /** Writes named values, one per line. Undefined values are left out. */
  fields(values: Readonly<Record<string, string | undefined>>): void {
    const known = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined);
    const columns = Math.max(...known.map(([name]) => name.length));
    for (const [name, value] of known) this.line(`${this.colors.bold(name.padEnd(columns))}  ${visibleLine(value)}`);
  }

  /** Writes a remark for people. Left out with -q or --json. */
  note(text: string): void {
    if (this.isQuiet || this.isJson) return;
    this.#clearStatus();
    this.streams.stderr.write(`${visibleText(text)}\n`);
  }

  /** Writes a warning, even with -q. */
  warn(text: string): void {
    this.#clearStatus();
    this.streams.stderr.write(`warning: ${visibleText(text)}\n`);
  }
}

/** Matches the escape sequences of `picocolors` for the colours that are used here. */
// oxlint-disable-next-line no-control-regex -- It is what this is about.
const ownColor = /(\u001b\[(?:[12]|22|3[1-9])m)/;

/** Splitting at a capturing group makes every second part a colour. */
function visibleUnlessColor(part: string, index: number): string {
  return index % 2 === 1 ? part : visibleText(part);
}

/** NO_COLOR takes precedence over FORCE_COLOR. An empty variable counts as unset. */
function hasColors(streams: Streams, env: NodeJS.ProcessEnv): boolean | undefined {
  if (env['NO_COLOR']) return false;
  const forced = env['FORCE_COLOR'];
  return forced ? forced !== '0' : streams.stdout.isTTY;
}

/** Writes bytes, and waits if the reader is slower. */
export async function writeBytes(stream: Writable, bytes: Uint8Array): Promise<void> {
  if (!stream.write(bytes)) await once(stream, 'drain');
}
