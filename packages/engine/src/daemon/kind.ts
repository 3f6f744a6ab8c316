import type { EngineErrorCode } from '../errors.ts';

/**
 * A native program that outlives the controller, of which there is one per data directory. It takes requests as lines of JSON
 * on a unix socket in its directory.
 */
export interface DaemonKind {
  /** The name of the socket and the log: `NAME.sock`, `NAME.log`. */
  name: string;
  /** The name in sentences, if it is another. */
  title?: string;
  /** The version of its protocol that this program speaks. */
  protocol: number;
  codes: { missing: EngineErrorCode; gone: EngineErrorCode; protocol: EngineErrorCode };
  /** The hint of an error that reports its end. */
  goneHint: string;
}

/** How to start such a program. */
export interface DaemonStart {
  /** The program. */
  bin: string;
  args: readonly string[];
  /** The directory of its socket, its lock and its log. */
  runDir: string;
  signal?: AbortSignal | undefined;
}

export function titleOf({ name, title }: DaemonKind): string {
  return title ?? name;
}
