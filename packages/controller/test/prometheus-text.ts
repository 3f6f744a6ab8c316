export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

export interface Family {
  type: string;
  samples: Sample[];
}

const suffixes: Record<string, RegExp> = {
  counter: /^$/,
  gauge: /^$/,
  histogram: /^_(bucket|sum|count)$/,
};

/** Reads the text format 0.0.4 as strictly as its description is: throws at whatever Prometheus would not take. */
export function parsePrometheus(text: string): Map<string, Family> {
  if (!text.endsWith('\n') || text.includes('\n\n')) throw new Error('the text does not end with one line feed');
  const families = new Map<string, Family>();
  const helped = new Set<string>();
  let current = '';
  for (const line of text.slice(0, -1).split('\n')) {
    const comment = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/.exec(line);
    if (comment !== null) {
      const [, kind, name = '', rest = ''] = comment;
      if (kind === 'HELP') {
        if (helped.has(name) || !/^(?:[^\\]|\\[\\n])*$/.test(rest)) throw new Error(`a second or wrong HELP: ${line}`);
        helped.add(name);
        current = name;
      } else {
        if (families.has(name) || !(rest in suffixes) || name !== current) throw new Error(`a wrong TYPE: ${line}`);
        families.set(name, { type: rest, samples: [] });
      }
      continue;
    }
    const sample = parseSample(line);
    const family = families.get(current);
    const suffix = sample.name.startsWith(current) ? sample.name.slice(current.length) : 'other';
    if (family === undefined || !suffixes[family.type]?.test(suffix)) throw new Error(`not of its family: ${line}`);
    family.samples.push(sample);
  }
  for (const [name, family] of families) checkFamily(name, family);
  return families;
}

function parseSample(line: string): Sample {
  const match = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
  if (match === null) throw new Error(`no sample: ${line}`);
  const [, name = '', labelText = '', valueText = ''] = match;
  const labels: Record<string, string> = {};
  const one = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(,|$)/y;
  while (one.lastIndex < labelText.length) {
    const label = one.exec(labelText);
    if (label === null || label[1] === undefined || label[1] in labels) throw new Error(`wrong labels: ${line}`);
    labels[label[1]] = (label[2] ?? '').replaceAll(/\\(.)/g, (_all, char: string) => (char === 'n' ? '\n' : char));
    if (one.lastIndex === 0) break;
  }
  const value = valueText === '+Inf' ? Infinity : Number(valueText);
  if (Number.isNaN(value)) throw new Error(`no number: ${line}`);
  return { name, labels, value };
}

function checkFamily(name: string, { type, samples }: Family): void {
  const keys = samples.map((sample) => sample.name + JSON.stringify(sample.labels));
  if (new Set(keys).size !== keys.length) throw new Error(`${name} has a sample twice`);
  if (type !== 'histogram') return;
  const series = groupBy(samples);
  for (const [key, members] of series) {
    const buckets = members.filter((sample) => sample.name.endsWith('_bucket'));
    const ends = buckets.map(({ labels }) => (labels['le'] === '+Inf' ? Infinity : Number(labels['le'])));
    const counts = buckets.map(({ value }) => value);
    const ascending = (values: number[]) => values.every((value, n) => n === 0 || value >= (values[n - 1] ?? 0));
    const total = members.find((sample) => sample.name === `${name}_count`)?.value;
    if (!ascending(ends) || !ascending(counts) || ends.at(-1) !== Infinity || counts.at(-1) !== total) {
      throw new Error(`${name} ${key} is no histogram`);
    }
    if (!members.some((sample) => sample.name === `${name}_sum`)) throw new Error(`${name} ${key} has no sum`);
  }
}

function keyOfSeries({ labels }: Sample): string {
  return JSON.stringify(Object.entries(labels).filter(([label]) => label !== 'le'));
}

function groupBy(samples: readonly Sample[]): Map<string, Sample[]> {
  const groups = new Map<string, Sample[]>();
  for (const sample of samples) groups.set(keyOfSeries(sample), [...(groups.get(keyOfSeries(sample)) ?? []), sample]);
  return groups;
}
