/** The agent's JSON, and what it becomes here. */
import type {
  CommandInfo,
  CurrentIdentity,
  DirectoryEntry,
  EvalResult,
  Identity,
  Ping,
  StartOptions,
} from './types.ts';

export interface WireCommand {
  id: string;
  pid: number | null;
  args: string[];
  running: boolean;
  exit_code: number | null;
  signal: string | null;
  timed_out: boolean;
  started_unix_ms: number;
  output_start: number;
  output_end: number;
}

export interface WirePing {
  pid: number;
  version: string;
  generation: number;
  uptime_ms: number;
}

export interface WireIdentity {
  generation: number;
  hostname: string | null;
  machine_id: string | null;
}

export interface WireEntry {
  name: string;
  type: DirectoryEntry['type'];
  size: number;
  mode: string;
  mtime_unix: number;
}

export interface WireEval {
  result: string | null;
  error: string | null;
  exit_code: number;
  stdout: string;
  stderr: string;
  truncated: boolean;
  timed_out: boolean;
  state_lost: boolean;
}

export function pingOf(wire: WirePing): Ping {
  return { pid: wire.pid, version: wire.version, generation: wire.generation, uptimeMs: wire.uptime_ms };
}

export function identityRequest(identity: Identity): object {
  return {
    entropy: Buffer.from(identity.entropy).toString('base64'),
    wall_clock_unix_ns: identity.wallClockUnixNs.toString(),
    hostname: identity.hostname,
    machine_id: identity.machineId,
  };
}

export function identityOf(wire: WireIdentity): CurrentIdentity {
  return {
    generation: wire.generation,
    hostname: wire.hostname ?? undefined,
    machineId: wire.machine_id ?? undefined,
  };
}

export function commandRequest(args: readonly string[], options: Omit<StartOptions, 'signal' | 'timeoutMs'>): object {
  return {
    args,
    env: options.env,
    cwd: options.cwd,
    user: options.user,
    stdin: options.stdin,
    timeout_ms: options.commandTimeoutMs,
    output_limit: options.outputLimitBytes,
  };
}

export function commandOf(wire: WireCommand): CommandInfo {
  return {
    id: wire.id,
    pid: wire.pid ?? undefined,
    args: wire.args,
    running: wire.running,
    exitCode: wire.exit_code ?? undefined,
    signal: wire.signal ?? undefined,
    timedOut: wire.timed_out,
    startedUnixMs: wire.started_unix_ms,
    outputStart: wire.output_start,
    outputEnd: wire.output_end,
  };
}

export function entryOf(wire: WireEntry): DirectoryEntry {
  return {
    name: wire.name,
    type: wire.type,
    sizeBytes: wire.size,
    mode: parseInt(wire.mode, 8),
    mtimeUnix: wire.mtime_unix,
  };
}

export function evalOf(wire: WireEval): EvalResult {
  return {
    result: wire.result ?? undefined,
    error: wire.error ?? undefined,
    exitCode: wire.exit_code,
    stdout: wire.stdout,
    stderr: wire.stderr,
    truncated: wire.truncated,
    timedOut: wire.timed_out,
    stateLost: wire.state_lost,
  };
}
