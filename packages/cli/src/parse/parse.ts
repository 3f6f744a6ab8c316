import { isTag, LABEL_KEY_PATTERN, limits } from '@forkd/api/constants';
import { UsageError } from '../lib/errors.ts';

/** Parses a whole number between two limits. */
export function integer(name: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || value < min || value > max) {
      throw new UsageError(`${name}: "${text}" is not a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** Parses a comma-separated list, each part with `parse`. Rejects duplicates. */
export function list<T>(name: string, parse: (text: string) => T): (text: string) => T[] {
  return (text) => {
    const parts = text.split(',').map(parse);
    if (new Set(parts).size < parts.length) throw new UsageError(`${name}: "${text}" names something twice.`);
    return parts;
  };
}

/** Parses one of a fixed set of values. */
export function choice<T extends string>(name: string, choices: readonly T[]): (text: string) => T {
  return (text) => {
    const found = choices.find((candidate) => candidate === text);
    if (found === undefined) throw new UsageError(`${name}: "${text}" is not one of ${choices.join(', ')}.`);
    return found;
  };
}

const DURATION_HINT = 'Write it as 90, 90s, 15m, 2h or 7d.';
const UNIT_SECS: Record<string, number> = { '': 1, s: 1, m: 60, h: 3600, d: 86_400 };

/** Parses a time that may be fractional: `90`, `90s`, `1.5m`, `2h`. @returns seconds. */
export function seconds(name: string, max: number): (text: string) => number {
  return (text) => {
    const value = secondsOf(text);
    if (!(value > 0) || value > max) {
      throw new UsageError(`${name}: "${text}" is not a time up to ${max} s.`, DURATION_HINT);
    }
    return value;
  };
}

/** Parses a time in whole seconds between two limits, in the same notation. */
export function wholeSeconds(name: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const value = secondsOf(text);
    if (!Number.isInteger(value) || value < min || value > max) {
      throw new UsageError(`${name}: "${text}" is not a time from ${min} to ${max} s.`, DURATION_HINT);
    }
    return value;
  };
}

function secondsOf(text: string): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)([smhd]?)$/.exec(text) ?? [];
  return digits === undefined ? Number.NaN : Number(digits) * (UNIT_SECS[unit] ?? Number.NaN);
}

const labelKey = new RegExp(LABEL_KEY_PATTERN);

/** Parses a repeatable label `k=v`. Rejects duplicate keys. */
export function label(text: string, previous: unknown): Record<string, string> {
  const labels = { ...(previous as Record<string, string> | undefined) };
  const equals = text.indexOf('=');
  if (equals <= 0) throw new UsageError(`--label: "${text}" is not KEY=VALUE.`);
  const key = checkLabelKey('--label', text.slice(0, equals));
  const value = text.slice(equals + 1);
  if (Object.hasOwn(labels, key)) throw new UsageError(`--label: "${key}" is given twice.`);
  if (Array.from(value).length > limits.labelCharsMax) {
    throw new UsageError(`--label: the value of "${key}" is longer than ${limits.labelCharsMax} characters.`);
  }
  labels[key] = value;
  if (Object.keys(labels).length > limits.labelsMax) {
    throw new UsageError(`--label: A sandbox has at most ${limits.labelsMax} labels.`);
  }
  return labels;
}

/** Parses a repeatable filter by label, `k` or `k=v`. */
export function labelFilter(text: string, previous: unknown): string[] {
  checkLabelKey('--label', text.split('=', 1)[0] ?? '');
  return collect(text, previous);
}

/** Parses a repeatable key of a label. */
export function labelKeys(name: string): (text: string, previous: unknown) => string[] {
  return (text, previous) => collect(checkLabelKey(name, text), previous);
}

function checkLabelKey(name: string, key: string): string {
  if (!labelKey.test(key)) {
    throw new UsageError(
      `${name}: "${key}" is not the key of a label.`,
      'A key is at most 63 letters, digits, "_", "." or "-".',
    );
  }
  return key;
}

/** Parses the name of a sandbox or a workspace. */
export function nameOf(text: string): string {
  if (!isTag(text)) throw new UsageError(`"${text}" is not a name.`, 'A name is 1 to 64 letters, digits, "_" or "-".');
  return text;
}

export function tag(text: string): string {
  if (!isTag(text)) throw new UsageError(`"${text}" is not a tag.`, 'A tag is 1 to 64 letters, digits, "_" or "-".');
  return text;
}

/** Collects the values of a repeatable option. */
export function collect(text: string, previous: unknown): string[] {
  return [...(Array.isArray(previous) ? (previous as string[]) : []), text];
}

/** Parses `K=V`, or `K` for its value in our environment, as Docker does. Unset names are left out. */
export function environment(entries: readonly string[], env: NodeJS.ProcessEnv): Record<string, string> {
  const result: Record<string, string> = {};
  for (const entry of entries) {
    const equals = entry.indexOf('=');
    const name = equals === -1 ? entry : entry.slice(0, equals);
    if (name === '') throw new UsageError(`-e: "${entry}" has no name.`, 'Write it as NAME=VALUE.');
    const value = equals === -1 ? env[name] : entry.slice(equals + 1);
    if (value !== undefined) result[name] = value;
  }
  return result;
}
