/**
 * Whatever the API document lets somebody send, and what it does not, is answered: never with a 5xx, always in time and in
 * the shape that the document has. A program that makes such requests up (schemathesis) asks a real controller with sandboxes
 * in it. FORKD_FUZZ_MINUTES makes it longer, and FORKD_FUZZ_SEED repeats a run.
 */
import { randomInt } from 'node:crypto';
import { expect, test } from 'vitest';
import { fuzz, installFuzzer } from './fuzzer.ts';

const SECS = Number(process.env['FORKD_FUZZ_MINUTES'] ?? 0.5) * 60;
const SEED = Number(process.env['FORKD_FUZZ_SEED'] ?? randomInt(2 ** 31));

test(
  'generated requests are answered as the API document says',
  { timeout: SECS * 1000 + 600_000 },
  async ({ skip }) => {
    const fuzzer = await installFuzzer();
    if ('missing' in fuzzer) return skip(fuzzer.missing);
    const { code, output } = await fuzz(fuzzer.program, SECS, SEED);
    expect([code, code === 0 ? '' : `FORKD_FUZZ_SEED=${SEED}\n${output}`]).toEqual([0, '']);
  },
);
