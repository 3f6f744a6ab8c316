import { grouped, percentile, round } from './statistics.ts';

/** The loads that the program in the guest puts on a device. */
export const diskLoads = [
  'read in order',
  'read 4 KiB anywhere',
  'write in order',
  'write 4 KiB anywhere',
  'write in order after a branch',
] as const;
export type DiskLoad = (typeof diskLoads)[number];

/** A measurement. */
export interface DiskRow {
  measure: DiskLoad | 'pause' | 'floor' | 'ready' | 'stop, snapshot and run';
  /** The device, or what was written before. */
  of: string;
  unit: 'ms' | 'MiB/s' | 'requests/s';
  iteration: number;
  value: number;
}

export interface DiskEntry extends Pick<DiskRow, 'measure' | 'of' | 'unit'> {
  values: { n: number; p50: number; least: number; most: number };
}

export function summarizeDisk(rows: readonly DiskRow[]): DiskEntry[] {
  return grouped(rows, ({ measure, of }) => `${measure}/${of}`).flatMap((group) => {
    const [first] = group;
    if (!first) return [];
    const values = group.map(({ value }) => value);
    const p50 = percentile(values, 0.5);
    const figures = { n: values.length, p50, least: Math.min(...values), most: Math.max(...values) };
    return [{ measure: first.measure, of: first.of, unit: first.unit, values: figures }];
  });
}

/** The median of a measure. */
export function p50Of(entries: readonly DiskEntry[], measure: DiskEntry['measure'], of: string): number {
  const entry = entries.find((other) => other.measure === measure && other.of === of);
  if (!entry) throw new RangeError(`${measure} of ${of} was not measured`);
  return round(entry.values.p50);
}
