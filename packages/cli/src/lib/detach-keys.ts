import { UsageError } from './errors.ts';

const DEFAULT_KEYS = 'ctrl-p,ctrl-q';

/** Finds the keys that leave a terminal among those typed. A key that begins the sequence waits until the next one is known. */
export class DetachKeys {
  readonly #keys: readonly number[];
  #matched = 0;

  constructor(keys: readonly number[]) {
    this.#keys = keys;
  }

  /** Returns the bytes to pass on, and whether the user leaves. */
  take(typed: Uint8Array): { pass: Uint8Array; leaves: boolean } {
    const pass: number[] = [];
    for (const byte of typed) {
      if (byte !== this.#keys[this.#matched]) {
        pass.push(...this.#keys.slice(0, this.#matched));
        this.#matched = 0;
      }
      if (byte !== this.#keys[this.#matched]) {
        pass.push(byte);
        continue;
      }
      this.#matched += 1;
      if (this.#matched === this.#keys.length) return { pass: Uint8Array.from(pass), leaves: true };
    }
    return { pass: Uint8Array.from(pass), leaves: false };
  }
}

/** Parses `ctrl-p,ctrl-q`: keys separated by commas, each a character or `ctrl-` and one of a-z, @, ^, [, \, ], _. */
export function detachKeys(text: string): number[] {
  return text.split(',').map((key) => {
    const control = /^ctrl-([a-z@[\\\]^_])$/i.exec(key)?.[1];
    if (control !== undefined) return control.toUpperCase().charCodeAt(0) & 0x1f;
    if (/^[\x21-\x7e]$/.test(key)) return key.charCodeAt(0);
    throw new UsageError(
      `--detach-keys: "${key}" is no key.`,
      'Give keys such as ctrl-p,ctrl-q: letters, or ctrl- and one.',
    );
  });
}

export const detachKeysOption = {
  flags: '--detach-keys <keys>',
  summary: 'keys that leave the terminal',
  parse: detachKeys,
  default: DEFAULT_KEYS,
};

/** The keys of a command line, or the default ones. */
export function keysOf(option: readonly number[] | string | undefined): DetachKeys {
  return new DetachKeys(typeof option === 'object' ? option : detachKeys(option ?? DEFAULT_KEYS));
}
