import { limits } from '../limits.ts';

/** The output of a command or an evaluation. */
interface Printed {
  stdout: Uint8Array | string;
  stderr: Uint8Array | string;
  truncated: boolean;
  stdoutDroppedBytes: number | undefined;
  stderrDroppedBytes: number | undefined;
}

/** The fields of a reply that say how much output was left out. */
export function cutOf({
  truncated,
  stdoutDroppedBytes = 0,
  stderrDroppedBytes = 0,
}: Omit<Printed, 'stdout' | 'stderr'>) {
  return {
    truncated,
    ...(stdoutDroppedBytes > 0 && { stdout_dropped_bytes: stdoutDroppedBytes }),
    ...(stderrDroppedBytes > 0 && { stderr_dropped_bytes: stderrDroppedBytes }),
  };
}

/** The beginning of the output, for an error: an error must stay short. */
export function printedDetails(printed: Printed) {
  const max = limits.errorOutputBytesMax;
  const over = (text: Uint8Array | string): number => Math.max(0, text.length - max);
  const { stdout, stderr, truncated, stdoutDroppedBytes = 0, stderrDroppedBytes = 0 } = printed;
  return {
    stdout: textOf(stdout.slice(0, max)),
    stderr: textOf(stderr.slice(0, max)),
    ...cutOf({
      truncated: truncated || over(stdout) + over(stderr) > 0,
      stdoutDroppedBytes: stdoutDroppedBytes + over(stdout),
      stderrDroppedBytes: stderrDroppedBytes + over(stderr),
    }),
  };
}

/** Invalid UTF-8 becomes replacement characters. A caller who wants the bytes streams the command. */
export function textOf(text: Uint8Array | string): string {
  return typeof text === 'string' ? text : new TextDecoder('utf-8', { ignoreBOM: true }).decode(text);
}
