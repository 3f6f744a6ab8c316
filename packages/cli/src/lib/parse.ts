import { isTag } from '@forkd/api/constants';
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

/** For an option in seconds, which may be fractional. */
export function seconds(name: string, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value > 0) || value > max) {
      throw new UsageError(`${name}: "${text}" is not a number of seconds up to ${max}`);
    }
    return value;
  };
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
