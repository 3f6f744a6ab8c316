/**
 * Proves how measurements become figures: what a summary is made of, how rows are written as CSV, how a process' memory is
 * read, and that the page tells a target that was missed as missed. The documents are made by hand, so that each figure is
 * known.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { summarizeBranch } from '../src/branch-summary.ts';
import { chainChart, forkChart, gapChart, pauseChart, stagesChart } from '../src/charts/index.ts';
import { toCsv } from '../src/csv.ts';
import { readSmaps } from '../src/memory.ts';
import { renderResults } from '../src/results.ts';
import { parseTicks, stolenPercent } from '../src/stolen.ts';
import { isMet, judgeBranch, judgeDisk, judgeFork, judgeWp } from '../src/targets.ts';
import { branchRow, documents } from './documents.ts';

describe('summaries', () => {
  test('compare a pause with the floors on either side of the branches of its mode', () => {
    const rows = [
      branchRow('live-async', 1.2, { floor_before_us: 800, floor_after_us: 1000 }),
      branchRow('live-async', 1.5, { floor_before_us: 1000, floor_after_us: 1000 }),
      branchRow('live-async', 4, { floor_before_us: 1000, floor_after_us: 5000 }),
      branchRow('diff', 80),
      branchRow('live-async', 9, { private_mib: 512 }),
    ];
    const [live, diff, large] = summarizeBranch(rows);
    expect(live).toMatchObject({
      mode: 'live-async',
      pause_ms: { n: 3, p50: 1.5, p99: 4, max: 4 },
      floor_ms: { n: 6, p50: 1, max: 5 },
      ratio_p50: 1.5,
      ratio_p99: 4,
      ready_over_pause: 20,
      copy_mib_per_s: 2000,
      writes_per_s_during: null,
    });
    expect(diff).toMatchObject({ mode: 'diff', pause_ms: { n: 1 }, copy_mib_per_s: null });
    expect(large).toMatchObject({ mode: 'live-async', private_mib: 512, ratio_p50: 10 });
  });

  test('list forks by count, beside QEMU alone and a cold boot', () => {
    expect(documents().fork.summary).toEqual([
      expect.objectContaining({
        n: 2,
        running_ms: { n: 4, p50: 33, p99: 33, max: 33 },
        floor_ms: 30,
        ratio: 1.1,
        pool_ratio: 0.05,
        cold_boot_ms: 3000,
        // The last of each batch: 301 and 351.
        all_ms: 301,
        private_kib_per_child: 600,
        bare_private_kib: 500,
        private_beyond_bare_kib: 100,
        private_after_exec_kib: 3600,
        cold_boot_private_kib: 140_000,
      }),
    ]);
  });

  test('list depths in order, relative to the least', () => {
    const { summary } = documents().chain;
    expect(summary.map(({ depth, ratio, extents }) => [depth, ratio, extents])).toEqual([
      [0, 1, 270],
      [20, 1.033, 290],
    ]);
    expect(summary.map((entry) => [entry.first_ms, entry.mappings_first, entry.mappings])).toEqual([
      [30, 1, 1],
      [31, 41, 21],
    ]);
  });
});

describe('CSV', () => {
  test('has a column for each field of any row, and empty cells for unknown values', () => {
    const rows: { a: number; b?: string | null; c?: boolean }[] = [
      { a: 1, b: 'x,"y"\n' },
      { a: 2, b: null, c: true },
    ];
    expect(toCsv(rows)).toBe('a,b,c\n1,"x,""y""\n",\n2,,true\n');
  });
});

describe('the memory of a guest', () => {
  const mapping = (range: string, access: string, path: string, rss: number, anonymous: number): string =>
    [
      `${range} ${access} 00000000 00:01 57919                      ${path}`,
      'Size:             262144 kB',
      `Rss:               ${rss} kB`,
      `Pss:               ${rss / 2} kB`,
      `Anonymous:         ${anonymous} kB`,
      'VmFlags: rd wr mr mw me dc nr',
    ].join('\n');

  test('is the mapping of its layers and its direct neighbours, and nothing else of the process', () => {
    const smaps = [
      mapping('7f00-7f10', 'r--p', '/usr/lib/libc.so', 1000, 0),
      mapping('7f20-7f30', 'rw-p', '', 600, 600),
      mapping('7f30-7f40', 'rw-p', '/memfd:forkd-layer (deleted)', 400, 100),
      mapping('7f40-7f50', 'rw-p', '', 20, 20),
      mapping('7f50-7f51', '---p', '', 0, 0),
      mapping('7f51-7f60', 'rw-p', '', 7000, 7000),
      mapping('7f60-7f70', 'r--p', '/memfd:forkd-shim', 50, 50),
    ].join('\n');
    expect(readSmaps(smaps, '/memfd:forkd-')).toEqual({ private_kib: 720, shared_kib: 300, proportional_kib: 510 });
    expect(readSmaps(smaps, '/dev/shm/memory')).toEqual({ private_kib: 0, shared_kib: 0, proportional_kib: 0 });
  });
});

describe('targets', () => {
  test('are met at the limit and missed beyond it', () => {
    expect(isMet({ what: '', measured: 1.3, atMost: 1.3 })).toBe(true);
    expect(isMet({ what: '', measured: 1.301, atMost: 1.3 })).toBe(false);
    expect(isMet({ what: '', measured: 200, atLeast: 200 })).toBe(true);
    expect(isMet({ what: '', measured: 199, atLeast: 200 })).toBe(false);
    expect(isMet({ what: '', measured: Number.NaN, atMost: 1 })).toBe(false);
  });

  test('are checked for each kind of guest where they apply', () => {
    const whats = (rows: Parameters<typeof summarizeBranch>[0]) =>
      judgeBranch(summarizeBranch(rows)).map(({ what }) => what);
    const one = whats([branchRow('live-async', 1), branchRow('full', 250)]);
    expect(one.filter((what) => what.includes('full pause'))).toHaveLength(1);
    expect(one.filter((what) => what.includes('ready p50'))).toHaveLength(1);
    const other = { mem_mib: 4096, private_mib: 512 };
    const large = whats([
      branchRow('live-sync', 1, other),
      branchRow('live-async', 1, other),
      branchRow('diff', 90, other),
    ]);
    expect(large.filter((what) => what.includes('pause p50 / floor p50'))).toHaveLength(2);
    expect(large.filter((what) => what.includes('diff pause'))).toHaveLength(1);
    expect(large.filter((what) => what.includes('ready p50') || what.includes('full pause'))).toHaveLength(0);
  });
});

describe('the page', () => {
  test('says how many targets were met, and shows every figure beside its target', () => {
    const all = documents();
    const page = renderResults(all, 4.8);
    expect(page).toContain('Branches audited: 9, pages compared: 589824, differing pages: 0.');
    const judged = [...judgeBranch(all.branch.summary), ...judgeWp(all.wp), ...judgeFork(all.fork.summary)];
    const count = judged.length + judgeDisk(all.disk.summary).length + 4;
    expect(page).toContain(`${count} of ${count} targets met.\n`);
    expect(page).not.toContain('not met');
    expect(page).toContain(
      '| 1.5 GiB RAM, 64 MiB rewritten, live-async: pause p50 / floor p50 | 1.222 | ≤ 1.3 | met |',
    );
    expect(page).toContain('| 1.5 GiB RAM, 64 MiB rewritten | diff | 3 | 99 / 108 / 108 | 0.9 / 1.1 |');
    expect(page).toContain('| pause | 1 GiB written | 3 | 1.1 / 1 / 1.2 ms |');
    expect(page).toContain('| pause p50 with 1 GiB written / with 1 MiB written | 1 | ≤ 1.2 | met |');
    expect(page).toContain('| wait of a write p50 / p99 / max, µs | 10.12 / 30 / 99 |');
    expect(page).toContain('500 requests a second, 0 errors');
    expect(page).toContain('| processor time that the hypervisor gave to others meanwhile | 4.8 % |');
    for (const chart of ['pause', 'stages', 'gap', 'fork', 'chain']) expect(page).toContain(`(charts/${chart}.svg)`);
    expect(page).not.toMatch(/undefined|NaN|\[object/);
  });

  test('marks missed targets, even in its summary', () => {
    const all = documents();
    all.branch.summary = summarizeBranch([branchRow('live-async', 1.5)]);
    const page = renderResults(all, 4.8);
    const line = '| 1.5 GiB RAM, 64 MiB rewritten, live-async: pause p50 / floor p50 | 1.667 | ≤ 1.3 | **not met** |';
    expect(page.split(line)).toHaveLength(3);
    expect(page.indexOf(line)).toBeLessThan(page.indexOf('## Branch'));
  });
});

describe('stolen time', () => {
  test('is a share of all time, in which the time of our own guests counts once', () => {
    const before = parseTicks('cpu  100 0 50 800 10 0 10 30 7 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n');
    expect(before).toEqual({ all: 1000, stolen: 30 });
    const after = parseTicks('cpu  500 0 150 1100 20 0 30 200 99 0\n');
    expect(stolenPercent(before, after)).toBe(17);
    expect(stolenPercent(before, before)).toBe(0);
  });
});

describe('charts', () => {
  const charts = join(import.meta.dirname, '../../charts');
  const results = (name: string) =>
    JSON.parse(readFileSync(join(charts, `../results/${name}.json`), 'utf8')) as { summary: never[] };
  const drawn = (): [string, string][] => {
    const [branch, fork, chain] = ['branch', 'fork', 'chain'].map((name) => results(name).summary);
    if (!branch || !fork || !chain) throw new Error('there are three results');
    return [
      ['pause', pauseChart(branch)],
      ['stages', stagesChart(branch)],
      ['gap', gapChart(branch)],
      ['fork', forkChart(fork)],
      ['chain', chainChart(chain)],
    ];
  };

  test('state their finding, name each group and series, and have the figure of each dot', () => {
    const { branch, fork, chain } = documents();
    const pause = pauseChart(branch.summary);
    for (const text of [
      'A live branch pauses a guest of 1.5 GiB for 1.1 ms, a copying one up to 275 ms',
      'floor',
      'live-async',
      'full',
      '1.5 GiB RAM, 64 MiB rewritten',
      '>275 ms<',
      '>99 ms<',
      '>1 ms<',
    ]) {
      expect(pause).toContain(text);
    }
    expect(pauseChart(branch.summary.filter(({ mode }) => mode === 'diff'))).toContain(
      'copies pauses the guest for 99 ms',
    );
    expect(stagesChart(branch.summary)).toContain('for 1.1 ms, and can be forked from after 30 ms');
    expect(gapChart(branch.summary)).toContain('sees a gap of 1.65 ms, of which the pause is 1.1 ms');
    expect(forkChart(fork.summary)).toContain('2 children: running after 33 ms, from the pool after 1.5 ms');
    expect(forkChart(fork.summary)).toContain('>3 s<');
    expect(chainChart(chain.summary)).toContain('from 20 branches deep takes 1.03 times as long');
  });

  test('do not depend on what the process drew before', () => {
    expect(drawn()).toEqual(drawn());
  });

  test('of the checkout are of its results; `npx vitest run bench/harness/test/reports.test.ts -u` draws them', async () => {
    for (const [name, svg] of drawn()) await expect(`${svg}\n`).toMatchFileSnapshot(join(charts, `${name}.svg`));
  });

  test('have no text on another one or beyond the edge', () => {
    for (const [name, svg] of drawn()) {
      const boxes = boxesOf(svg);
      expect(boxes.length).toBeGreaterThan(10);
      const clashes = boxes.flatMap((one, index) =>
        boxes
          .slice(index + 1)
          .flatMap((other) => (areApart(one, other) ? [] : [`${name}: ${one.text} / ${other.text}`])),
      );
      const beyond = boxes.filter(({ left, right }) => left < 0 || right > 960).map(({ text }) => `${name}: ${text}`);
      expect([...clashes, ...beyond]).toEqual([]);
    }
  });
});

interface Box {
  text: string;
  left: number;
  right: number;
  top: number;
  bottom: number;
}

/** The places of all texts, with letters as wide as those of a wide font. */
function boxesOf(svg: string): Box[] {
  return [...svg.matchAll(/<text ([^>]*)>([^<]*)<\/text>/g)].map(([, attributes = '', text = '']) => {
    const number = (pattern: RegExp, otherwise = 0) => Number(pattern.exec(attributes)?.[1] ?? otherwise);
    const [x, y] = [number(/translate\(([-\d.]+)/) + number(/ x="([-\d.]+)/), number(/translate\([-\d.]+ ([-\d.]+)/)];
    const size = number(/font-size:(\d+)px/, 12);
    const width = text.length * size * 0.56;
    const anchor = /text-anchor="(\w+)"/.exec(attributes)?.[1];
    const left = x - (anchor === 'end' ? width : anchor === 'middle' ? width / 2 : 0);
    const middle = y + number(/ y="([-\d.]+)/);
    return { text, left, right: left + width, top: middle - size / 2, bottom: middle + size / 2 };
  });
}

function areApart(one: Box, other: Box): boolean {
  return one.right <= other.left || other.right <= one.left || one.bottom <= other.top || other.bottom <= one.top;
}
