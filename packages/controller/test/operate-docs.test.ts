// Proves that the page on running the controller says what the code does: each option with its variable, each metric with its
// type, and a systemd unit that systemd itself accepts.
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

import { expect, test } from 'vitest';

import { Metrics } from '../src/observe/metrics.ts';
import { optionEnv } from '../src/options.ts';
import { parsePrometheus } from './prometheus-text.ts';

const root = new URL('../../../', import.meta.url);
const page = () => readFile(new URL('docs/operate/controller.md', root), 'utf8');
const unitPath = new URL('packaging/systemd/forkd-controller.service', root).pathname;

/** Of each row of the page's tables that begins with a word in code, its first two cells. */
async function rows(beginning: string): Promise<[string, string][]> {
  const lines = (await page()).split('\n').filter((line) => line.startsWith(`| \`${beginning}`));
  return lines.map((line) => {
    const [, first = '', second = ''] = line.split('|').map((cell) => cell.trim().replaceAll('`', ''));
    return [first.split(' ')[0] ?? '', second];
  });
}

test('each option is there with its variable', async () => {
  const inCode = Object.entries(optionEnv).map(([flag, variable]) => [`--${flag}`, variable]);
  expect(await rows('--')).toEqual(inCode);
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

async function metricsText(): Promise<string> {
  const metrics = new Metrics();
  metrics.readFrom(async () => ({
    snapshots: 0,
    sandboxes: 0,
    branchesInFlight: 0,
    branchCap: 0,
    layers: 0,
    layerBytes: 0,
    privateBytes: 0,
    sharedBytes: 0,
    auditLinesDropped: 0,
  }));
  return metrics.scrape();
}
