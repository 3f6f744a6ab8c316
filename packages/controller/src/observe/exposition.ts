export type Labels = Readonly<Record<string, string>>;

interface Series {
  /** Complete lines of the text format. */
  lines(): string[];
}

/** The measures of a process, and their text in the format that Prometheus reads (version 0.0.4). */
export class Exposition {
  readonly #families = new Map<string, { head: string; series: Series }>();

  counter(name: string, help: string): Counter {
    return this.#add(name, help, 'counter', new Counter(name));
  }

  /** A gauge that is read when the text is made. */
  gauge(name: string, help: string, read: () => number | null, labels: Labels = {}): void {
    this.#add(name, help, 'gauge', { lines: () => lineIfKnown(name, labels, read()) });
  }

  /** A counter whose value is kept elsewhere. */
  counted(name: string, help: string, read: () => number | null): void {
    this.#add(name, help, 'counter', { lines: () => lineIfKnown(name, {}, read()) });
  }

  histogram(name: string, help: string, bounds: readonly number[]): Histogram {
    return this.#add(name, help, 'histogram', new Histogram(name, bounds));
  }

  text(): string {
    const blocks = [...this.#families.values()].map(({ head, series }) => [head, ...series.lines()].join('\n'));
    return `${blocks.join('\n')}\n`;
  }

  #add<S extends Series>(name: string, help: string, type: string, series: S): S {
    if (!/^[a-z][a-z0-9_]*$/.test(name) || this.#families.has(name)) throw new Error(`metric ${name} cannot be added`);
    const head = `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${type}`;
    this.#families.set(name, { head, series });
    return series;
  }
}

/** A counter that only grows. */
export class Counter implements Series {
  readonly #name: string;
  readonly #values = new Map<string, number>();

  constructor(name: string) {
    this.#name = name;
  }

  add(n: number, labels: Labels = {}): void {
    const key = textOf(labels);
    this.#values.set(key, (this.#values.get(key) ?? 0) + n);
  }

  lines(): string[] {
    return [...this.#values].map(([labels, value]) => `${this.#name}${braced(labels)} ${value}`);
  }
}

interface Buckets {
  /** The number of values in each bucket that are in no smaller one. */
  counts: number[];
  sum: number;
  count: number;
}

/** Counts measured values by size. */
export class Histogram implements Series {
  readonly #name: string;
  /** Upper bounds, ascending; the last bucket has none. */
  readonly #bounds: readonly number[];
  readonly #series = new Map<string, Buckets>();

  constructor(name: string, bounds: readonly number[]) {
    this.#name = name;
    this.#bounds = bounds;
  }

  observe(value: number, labels: Labels = {}): void {
    const key = textOf(labels);
    const buckets = this.#series.get(key) ?? { counts: this.#bounds.map(() => 0), sum: 0, count: 0 };
    this.#series.set(key, buckets);
    const index = this.#bounds.findIndex((bound) => value <= bound);
    if (index >= 0) buckets.counts[index] = (buckets.counts[index] ?? 0) + 1;
    buckets.sum += value;
    buckets.count += 1;
  }

  lines(): string[] {
    return [...this.#series].flatMap(([labels, { counts, sum, count }]) => {
      let below = 0;
      const buckets = this.#bounds.map((bound, index) => {
        below += counts[index] ?? 0;
        return this.#bucket(labels, String(bound), below);
      });
      const [sumLine, countLine] = [`_sum${braced(labels)} ${sum}`, `_count${braced(labels)} ${count}`];
      return [...buckets, this.#bucket(labels, '+Inf', count), `${this.#name}${sumLine}`, `${this.#name}${countLine}`];
    });
  }

  #bucket(labels: string, bound: string, count: number): string {
    return `${this.#name}_bucket{${labels === '' ? '' : `${labels},`}le="${bound}"} ${count}`;
  }
}

/** A value that is unknown at the moment has no line: a zero would be a claim. */
function lineIfKnown(name: string, labels: Labels, value: number | null): string[] {
  return value === null ? [] : [`${name}${braced(textOf(labels))} ${value}`];
}

function textOf(labels: Labels): string {
  return Object.entries(labels)
    .map(([name, value]) => `${name}="${escapeValue(value)}"`)
    .join(',');
}

function escapeValue(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}

function braced(labels: string): string {
  return labels === '' ? '' : `{${labels}}`;
}
