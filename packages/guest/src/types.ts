import type { Bytes } from './http.ts';
import type { CommandExit, OutputGap } from './output.ts';
import type { WaitOptions } from './wait.ts';

export interface Ping {
  pid: number;
  version: string;
  /** How many identities the guest has taken on. */
  generation: number;
  uptimeMs: number;
}

/** The image's defaults for commands. What is absent is reset. */
export interface GuestConfig {
  env?: Record<string, string>;
  workdir?: string;
  user?: string;
  entrypoint?: string[];
  cmd?: string[];
}

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

export interface StartOptions extends CommandOptions {
  /** Give the command an input that `writeStdin` fills. Without it: /dev/null. */
  stdin?: boolean;
}

export interface RunOptions extends CommandOptions {
  stdin?: Bytes | string;
  /** Bytes kept of each stream, the first ones; the rest is read and dropped. Unless given: 64 MiB. */
  keepBytesMax?: number;
}

export interface RunResult extends CommandExit {
  id: string;
  stdout: Uint8Array;
  stderr: Uint8Array;
  /** More came than is kept here. */
  truncated: boolean;
  gaps: OutputGap[];
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
}

export interface FileContents {
  /** Absent for files that do not know their length, as those of /proc. */
  sizeBytes: number | undefined;
  /** Permission bits. */
  mode: number;
  data: AsyncIterable<Uint8Array>;
}

export interface DirectoryEntry {
  name: string;
  type: 'file' | 'dir' | 'symlink' | 'other';
  sizeBytes: number;
  mode: number;
  mtimeUnix: number;
}

export interface EvalOptions extends WaitOptions {
  /** `python` is what there is. */
  language?: string;
  /** The evaluation's own time: at its end it is interrupted, and a second later its interpreter ended. */
  evalTimeoutMs?: number;
}

export interface EvalResult {
  /** repr of the last expression; absent where the code ends in a statement. */
  result: string | undefined;
  /** Traceback, or why there is no result. */
  error: string | undefined;
  exitCode: number;
  stdout: string;
  stderr: string;
  truncated: boolean;
  timedOut: boolean;
  /** The interpreter ended: the next evaluation starts in a fresh one. */
  stateLost: boolean;
}
