import { isTag, LABEL_KEY_PATTERN, limits } from '@forkd/api/constants';
import { UsageError } from './errors.ts';

/** For an option that is a whole number between two limits. */
export function integer(name: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || value < min || value > max) {
      throw new UsageError(`${name}: "${text}" is not a whole number from ${min} to ${max}`);
    }
    return value;
  };
}

/** For an option that is a list with commas, each part of which `parse` takes. A part that comes twice is a mistake. */
export function list<T>(name: string, parse: (text: string) => T): (text: string) => T[] {
  return (text) => {
    const parts = text.split(',').map(parse);
    if (new Set(parts).size < parts.length) throw new UsageError(`${name}: "${text}" names something twice`);
    return parts;
  };
}

/** For an option that is one of these. */
export function choice<T extends string>(name: string, choices: readonly T[]): (text: string) => T {
  return (text) => {
    const found = choices.find((candidate) => candidate === text);
    if (found === undefined) throw new UsageError(`${name}: "${text}" is not one of ${choices.join(', ')}`);
    return found;
  };
}

const DURATION_HINT = 'write it as 90, 90s, 15m, 2h or 7d';
const UNIT_SECS: Record<string, number> = { '': 1, s: 1, m: 60, h: 3600, d: 86_400 };

/** For a time that may be fractional: `90`, `90s`, `1.5m`, `2h`. @returns seconds. */
export function seconds(name: string, max: number): (text: string) => number {
  return (text) => {
    const value = secondsOf(text);
    if (!(value > 0) || value > max) {
      throw new UsageError(`${name}: "${text}" is not a time up to ${max} s`, DURATION_HINT);
    }
    return value;
  };
}

/** For a time in whole seconds between two limits, in the same words. */
export function wholeSeconds(name: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const value = secondsOf(text);
    if (!Number.isInteger(value) || value < min || value > max) {
      throw new UsageError(`${name}: "${text}" is not a time from ${min} to ${max} s`, DURATION_HINT);
    }
    return value;
  };
}

function secondsOf(text: string): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)([smhd]?)$/.exec(text) ?? [];
  return digits === undefined ? Number.NaN : Number(digits) * (UNIT_SECS[unit] ?? Number.NaN);
}

const labelKey = new RegExp(LABEL_KEY_PATTERN);

/** For labels, `k=v` and several times. A key that comes twice is a mistake. */
export function label(text: string, previous: unknown): Record<string, string> {
  const labels = { ...(previous as Record<string, string> | undefined) };
  const equals = text.indexOf('=');
  if (equals <= 0) throw new UsageError(`--label: "${text}" is not KEY=VALUE`);
  const key = checkLabelKey('--label', text.slice(0, equals));
  const value = text.slice(equals + 1);
  if (Object.hasOwn(labels, key)) throw new UsageError(`--label: "${key}" is given twice`);
  if (value.length > limits.labelBytesMax) {
    throw new UsageError(`--label: the value of "${key}" is longer than ${limits.labelBytesMax}`);
  }
  labels[key] = value;
  if (Object.keys(labels).length > limits.labelsMax) {
    throw new UsageError(`--label: a sandbox has ${limits.labelsMax} labels at most`);
  }
  return labels;
}

/** For a choice by labels, `k` or `k=v`, several times. */
export function labelFilter(text: string, previous: unknown): string[] {
  checkLabelKey('--label', text.split('=', 1)[0] ?? '');
  return collect(text, previous);
}

/** For keys of labels, several times. */
export function labelKeys(name: string): (text: string, previous: unknown) => string[] {
  return (text, previous) => collect(checkLabelKey(name, text), previous);
}

function checkLabelKey(name: string, key: string): string {
  if (!labelKey.test(key)) {
    throw new UsageError(
      `${name}: "${key}" is not the key of a label`,
      'letters, digits, "_", "." and "-"; at most 63',
    );
  }
  return key;
}

/** For the name of a sandbox or a workspace. */
export function nameOf(text: string): string {
  if (!isTag(text)) throw new UsageError(`"${text}" is not a name`, 'a name is 1 to 64 letters, digits, "_" or "-"');
  return text;
}

export function tag(text: string): string {
  if (!isTag(text)) throw new UsageError(`"${text}" is not a tag`, 'a tag is 1 to 64 letters, digits, "_" or "-"');
  return text;
}

/** For an option that is given several times. */
export function collect(text: string, previous: unknown): string[] {
  return [...(Array.isArray(previous) ? (previous as string[]) : []), text];
}

/** `K=V`, or `K` for the value that it has here, as Docker does. A name that is not set here is left out. */
export function environment(entries: readonly string[], env: NodeJS.ProcessEnv): Record<string, string> {
  const result: Record<string, string> = {};
  for (const entry of entries) {
    const equals = entry.indexOf('=');
    const name = equals === -1 ? entry : entry.slice(0, equals);
    if (name === '') throw new UsageError(`-e: "${entry}" has no name`, 'write it as NAME=VALUE');
    const value = equals === -1 ? env[name] : entry.slice(equals + 1);
    if (value !== undefined) result[name] = value;
  }
  return result;
}
