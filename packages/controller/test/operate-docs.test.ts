// Proves that the page on running the controller says what the code does: the options of the code's own table, each metric with
// its type, and a systemd unit that systemd itself accepts.
// `npx vitest run packages/controller/test/operate-docs.test.ts -u` writes the table of options.
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { Metrics } from '../src/observe/metrics.ts';
import { optionEntries, signatureOf } from '../src/option-table.ts';
import { parsePrometheus } from './prometheus-text.ts';

const root = new URL('../../../', import.meta.url);
const pagePath = new URL('docs/operate/controller.md', root).pathname;
const page = () => readFile(pagePath, 'utf8');
const unitPath = new URL('packaging/systemd/forkd-controller.service', root).pathname;

/** Of each row of the page's tables that begins with a word in code, its first two cells. */
async function rows(beginning: string): Promise<[string, string][]> {
  const lines = (await page()).split('\n').filter((line) => line.startsWith(`| \`${beginning}`));
  return lines.map((line) => {
    const [, first = '', second = ''] = line.split('|').map((cell) => cell.trim().replaceAll('`', ''));
    return [first.split(' ')[0] ?? '', second];
  });
}

test('the table of options is that of the code', async () => {
  const parts = (await page()).split(/(?<=<!-- The table below is made [^\n]*\n\n)(?:\|[^\n]*\n)+/);
  expect(parts).toHaveLength(2);
  await expect(parts.join(optionsTable())).toMatchFileSnapshot(pagePath);
});

test('each metric is there with its type', async () => {
  const families = parsePrometheus(await metricsText());
  const inCode = new Map([...families].map(([name, { type }]) => [name, type]));
  expect(new Map([...(await rows('forkd_')), ...(await rows('process_'))])).toEqual(inCode);
});

test('systemd accepts the unit, and its words are the ones that the controller counts on', async (context) => {
  const unit = await readFile(unitPath, 'utf8');
  for (const line of ['Type=notify', 'NotifyAccess=main', 'KillMode=process', 'OOMPolicy=continue', 'Delegate=yes']) {
    expect(unit.split('\n')).toContain(line);
  }
  const found = await promisify(execFile)('systemd-analyze', ['verify', unitPath]).catch((error: unknown) => error);
  if (found instanceof Error && 'code' in found && found.code === 'ENOENT') {
    return context.skip('systemd-analyze is not installed (Debian package systemd)');
  }
  expect(found).toEqual({ stdout: '', stderr: '' });
});

/** The options as a Markdown table, laid out as oxfmt does it. */
function optionsTable(): string {
  const cells = [
    ['option', 'variable', 'default', ''],
    ...optionEntries.map(([name, spec]) => [
      code(signatureOf(name, spec)),
      code(spec.variable),
      spec.default?.includes(' ') ? spec.default : code(spec.default ?? ''),
      [`${spec.help.charAt(0).toUpperCase()}${spec.help.slice(1)}.`, ...(spec.note ? [spec.note] : [])].join(' '),
    ]),
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  const [head = '', ...body] = cells.map((row) =>
    tableLine(row.map((cell, column) => cell.padEnd(widths[column] ?? 0))),
  );
  return [head, tableLine(widths.map((width) => '-'.repeat(width))), ...body].join('');
}

function code(text: string): string {
  return text === '' ? '' : `\`${text}\``;
}

function tableLine(row: readonly string[]): string {
  return `| ${row.join(' | ')} |\n`;
}

async function metricsText(): Promise<string> {
  const metrics = new Metrics();
  metrics.readFrom(async () => ({
    snapshots: 0,
    sandboxes: 0,
    terminalViewers: 0,
    branchesInFlight: 0,
    branchCap: 0,
    layers: {
      budget_bytes: 0,
      mapped_bytes: 0,
      unmapped_bytes: 0,
      pending_bytes: 0,
      view_bytes: 0,
      layers: 0,
      let_go: 0,
      loaded_again: 0,
      merged: 0,
      merged_in_forks: 0,
      merged_in_forks_us: 0,
    },
    diskOwnBytes: 0,
    diskSharedBytes: 0,
    privateBytes: 0,
    sharedBytes: 0,
    auditLinesDropped: 0,
  }));
  return metrics.scrape();
}
