import type { Image } from '@forkd/api';
import type { Bytes } from './http.ts';
import type { CommandExit } from './output.ts';
import type { WaitOptions } from './wait.ts';

export interface Ping {
  pid: number;
  version: string;
  /** How many identities the guest has taken on. */
  generation: number;
  uptimeMs: number;
}

/** The image's defaults for commands. What is absent is reset. */
export type GuestConfig = Partial<Image>;

export interface Identity {
  /** 32 to 512 random bytes. */
  entropy: Uint8Array;
  wallClockUnixNs: bigint;
  hostname: string;
  /** 32 lower-case hexadecimal digits. The same again is a retry, and no new generation. */
  machineId: string;
}

export interface Identified {
  generation: number;
  /** `kernel`, and each warm interpreter that has confirmed its new seed. */
  reseeded: string[];
}

export interface CurrentIdentity {
  generation: number;
  hostname: string | undefined;
  machineId: string | undefined;
}

export interface CommandOptions extends WaitOptions {
  env?: Record<string, string>;
  cwd?: string;
  /** Name, uid, or either with `:group`. */
  user?: string;
  /** The command's own time: at its end its process group is killed and what it has said is kept. */
  commandTimeoutMs?: number;
  /** Bytes of output that the agent keeps: 4 KiB to 64 MiB, 1 MiB unless given. */
  outputLimitBytes?: number;
}

/** The size of a terminal, in characters. */
export interface PtySize {
  rows: number;
  cols: number;
}

export interface StartOptions extends CommandOptions {
  /** Give the command a terminal, which `writeStdin` types into. Without arguments, the command is then the user's shell. */
  pty?: PtySize | undefined;
  /** Give the command an input that `writeStdin` fills. Without it: /dev/null. */
  stdin?: boolean;
}

export interface RunOptions extends CommandOptions {
  stdin?: Bytes | string;
  /** Bytes kept of each stream, the first ones; the rest is read, counted and dropped. Unless given: 8 MiB. */
  keepBytesMax?: number;
  budget?: Budget;
  /** Called with each piece of either stream as it arrives, kept or not. */
  onOutput?: (data: Uint8Array) => void;
}

/** Memory that is shared with others who collect output. */
export interface Budget {
  /** Resolves once this caller may hold so many bytes in all. Until then the guest is not read from. Rejects to give the call up. */
  hold(bytes: number): Promise<void>;
}

export interface ListOptions extends WaitOptions {
  budget?: Budget | undefined;
}

export interface RunResult extends CommandExit {
  id: string;
  stdout: Uint8Array;
  stderr: Uint8Array;
  /** More came than is given here: the numbers below say how much. */
  truncated: boolean;
  stdoutDroppedBytes: number;
  stderrDroppedBytes: number;
  /** Bytes of either stream that the guest no longer had when they were read. */
  lostBytes: number;
}

export interface Started {
  id: string;
  /** Absent where the program could not be started. */
  pid: number | undefined;
}

export interface CommandInfo extends Started {
  args: string[];
  running: boolean;
  exitCode: number | undefined;
  signal: string | undefined;
  timedOut: boolean;
  startedUnixMs: number;
  /** Offsets of the output that the agent still has. */
  outputStart: number;
  outputEnd: number;
  /** The size of its terminal. Absent where it has none. */
  pty: PtySize | undefined;
}

export interface NewFileOptions {
  /** Permission bits. */
  mode?: number;
  /** The owner: a name, a uid, or either with `:group`. */
  user?: string;
}

export interface FileContents {
  /** Absent for files that do not know their length, as those of /proc. */
  sizeBytes: number | undefined;
  /** Permission bits. */
  mode: number;
  data: AsyncIterable<Uint8Array>;
}

export interface FileFacts {
  type: 'file' | 'dir' | 'symlink' | 'other';
  sizeBytes: number;
  mode: number;
  mtimeUnix: number;
}

/** A file, a directory or a link. `target` is the path that a symbolic link holds. */
export interface FileStat extends FileFacts {
  uid: number;
  gid: number;
  target: string | undefined;
}

/** An entry of a directory. Older agents do not tell the owner and the target. */
export interface DirectoryEntry extends FileFacts {
  name: string;
  uid: number | undefined;
  gid: number | undefined;
  target: string | undefined;
}

/** A change below a watched path. `overflow`: changes are missing here. */
export type FileChange =
  | { type: 'create' | 'modify' | 'remove'; path: string }
  | { type: 'rename'; path: string; to: string }
  | { type: 'overflow' };

export interface EvalOptions extends WaitOptions {
  /** `python` is what there is. */
  language?: string;
  /**
   * The evaluation's own time, from the call on: at its end it is interrupted, and a second later its interpreter ended. An
   * evaluation that still waits for an earlier one is given up instead (`interpreter_busy`).
   */
  evalTimeoutMs?: number;
  budget?: Budget | undefined;
}

export interface EvalResult {
  /** repr of the last expression; absent where the code ends in a statement. */
  result: string | undefined;
  /** Why there is no result, in one line: the exception, or what ended the evaluation. */
  error: string | undefined;
  traceback: string | undefined;
  exitCode: number;
  stdout: string;
  stderr: string;
  /** More was printed, or the result was longer, than is given here. */
  truncated: boolean;
  /** How much was printed beside what is given. Absent where the agent does not count it. */
  stdoutDroppedBytes: number | undefined;
  stderrDroppedBytes: number | undefined;
  timedOut: boolean;
  /** The interpreter ended: the next evaluation starts in a fresh one. */
  stateLost: boolean;
}
