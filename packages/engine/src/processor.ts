import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Processor } from './types.ts';

/** Flags that a refusal lists; of the rest it says how many there are. */
const FLAGS_TOLD_MAX = 12;

/** A processor with its flags in order, and their digest. */
export function makeProcessor(parts: Omit<Processor, 'flags' | 'flags_digest'>, flags: readonly string[]): Processor {
  const text = [...new Set(flags)].toSorted().join(' ');
  return { ...parts, flags: text, flags_digest: `sha256:${createHash('sha256').update(text).digest('hex')}` };
}

/** The host's own processor, as its kernel tells it; `undefined` where it does not. */
export async function readHostProcessor(): Promise<Processor | undefined> {
  const text = await readFile('/proc/cpuinfo', 'utf8');
  const field = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(text)?.[1];
  const [vendor, flags] = [field('vendor_id'), field('flags')];
  const [family, model, stepping] = ['cpu family', 'model', 'stepping'].map((name) => Number(field(name)));
  const isKnown = [family, model, stepping].every((value) => Number.isSafeInteger(value));
  if (vendor === undefined || flags === undefined || !isKnown) return undefined;
  const numbers = { family: family ?? 0, model: model ?? 0, stepping: stepping ?? 0 };
  return makeProcessor({ vendor, ...numbers }, flags.trim().split(/\s+/));
}

/**
 * Why a guest that was started on the processor `there` cannot continue here, as parts of a sentence. Additional flags do no
 * harm, because the guest has read its flags already.
 */
export function processorDifferences(here: Processor | undefined, there: Processor): string[] {
  if (here === undefined) return [`the processor is ${there.vendor} there and cannot be told here`];
  const keys = ['vendor', 'family', 'model', 'stepping'] as const;
  const differences = keys
    .filter((key) => here[key] !== there[key])
    .map((key) => `the processor's ${key} is ${here[key]} here and ${there[key]} there`);
  const have = new Set(here.flags.split(' '));
  const missing = there.flags.split(' ').filter((flag) => !have.has(flag));
  if (missing.length === 0) return differences;
  const more = missing.length - FLAGS_TOLD_MAX;
  const told = missing.slice(0, FLAGS_TOLD_MAX).join(', ');
  return [...differences, `the processor lacks these flags here: ${told}${more > 0 ? ` and ${more} more` : ''}`];
}
