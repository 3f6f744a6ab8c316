/** Complains about one field. `path` is such as `config.machine.mem_mib`. */
export type Complain = (path: string, problem: string) => Error;

/** Reads the fields of untrusted JSON, each with its check; a field that is wrong is named in the error. */
export class Fields {
  readonly #value: Record<string, unknown>;
  readonly #path: string;
  readonly #complain: Complain;

  constructor(value: unknown, path: string, complain: Complain) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw complain(path, `must be an object, it is ${show(value)}`);
    }
    this.#value = value as Record<string, unknown>;
    this.#path = path;
    this.#complain = complain;
  }

  has(key: string): boolean {
    return Object.hasOwn(this.#value, key);
  }

  keys(): string[] {
    return Object.keys(this.#value);
  }

  string(key: string, options: { pattern?: RegExp; bytesMax?: number } = {}): string {
    const value = this.#own(key);
    const bytesMax = options.bytesMax ?? 4096;
    if (typeof value !== 'string') throw this.fail(key, `must be a string, it is ${show(value)}`);
    if (Buffer.byteLength(value) > bytesMax) throw this.fail(key, `is longer than ${bytesMax} bytes`);
    if (options.pattern !== undefined && !options.pattern.test(value)) {
      throw this.fail(key, `must match ${options.pattern.source}, it is ${show(value)}`);
    }
    return value;
  }

  /** A value of any shape, which its user must check. */
  json(key: string): unknown {
    return this.#own(key);
  }

  integer(key: string, min: number, max: number): number {
    const value = this.#own(key);
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
      throw this.fail(key, `must be an integer of ${min}..${max}, it is ${show(value)}`);
    }
    return value;
  }

  number(key: string): number {
    const value = this.#own(key);
    if (typeof value !== 'number' || !Number.isFinite(value)) {
      throw this.fail(key, `must be a number, it is ${show(value)}`);
    }
    return value;
  }

  boolean(key: string): boolean {
    const value = this.#own(key);
    if (typeof value !== 'boolean') throw this.fail(key, `must be true or false, it is ${show(value)}`);
    return value;
  }

  literal<T extends string | number>(key: string, expected: T): T {
    const value = this.#own(key);
    if (value !== expected) throw this.fail(key, `must be ${show(expected)}, it is ${show(value)}`);
    return expected;
  }

  object(key: string): Fields {
    return new Fields(this.#own(key), this.#join(key), this.#complain);
  }

  objects(key: string, countMax: number): Fields[] {
    return this.#array(key, countMax).map(
      (item, index) => new Fields(item, `${this.#join(key)}[${index}]`, this.#complain),
    );
  }

  strings(key: string, countMax: number, bytesMax: number): string[] {
    return this.#array(key, countMax).map((item, index) => {
      if (typeof item !== 'string' || Buffer.byteLength(item) > bytesMax) {
        throw this.fail(`${key}[${index}]`, `must be a string of at most ${bytesMax} bytes`);
      }
      return item;
    });
  }

  /** `null` where the field is null, else what `read` makes of it. */
  nullable<T>(key: string, read: () => T): T | null {
    return this.#own(key) === null ? null : read();
  }

  fail(key: string, problem: string): Error {
    return this.#complain(this.#join(key), problem);
  }

  #own(key: string): unknown {
    return this.has(key) ? this.#value[key] : undefined;
  }

  #array(key: string, countMax: number): unknown[] {
    const value = this.#own(key);
    if (!Array.isArray(value)) throw this.fail(key, `must be a list, it is ${show(value)}`);
    if (value.length > countMax) throw this.fail(key, `has ${value.length} entries, at most ${countMax} are allowed`);
    return value;
  }

  #join(key: string): string {
    return this.#path === '' ? key : `${this.#path}.${key}`;
  }
}

/** A value as it may stand in an error sentence: never long. */
function show(value: unknown): string {
  if (value === undefined) return 'missing';
  const text = JSON.stringify(value) ?? typeof value;
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
