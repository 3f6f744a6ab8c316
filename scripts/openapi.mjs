// Makes docs/reference/openapi.json and api.md of what a controller says of itself:  node scripts/openapi.mjs
// The controller is started for it, with a data directory of its own, from what `tsc -b` has built.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { apiMarkdown } from './lib/api-markdown.mjs';
import { repoRoot } from './lib/terminal.mjs';

const PROGRAM = join(repoRoot, 'packages/controller/dist/main.js');
const OUT = join(repoRoot, 'docs/reference');
const START_TIMEOUT_MS = 20_000;

const document = await ask('/openapi.json');
mkdirSync(OUT, { recursive: true });
writeFileSync(join(OUT, 'openapi.json'), `${JSON.stringify(document, null, 2)}\n`);
writeFileSync(join(OUT, 'api.md'), apiMarkdown(document));

/** @param {string} route of a controller that is started for this and ended after it */
async function ask(route) {
  const dir = mkdtempSync('/tmp/fk-');
  const socket = join(dir, 'c.sock');
  const args = [PROGRAM, 'serve', '--data-dir', dir, '--socket', socket, '--no-tcp', '--vmm-pool', '0'];
  const controller = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(controller, 'exit');
  try {
    await listening(controller);
    return await getJson(socket, route);
  } finally {
    controller.kill('SIGTERM');
    await ended;
    rmSync(dir, { recursive: true, force: true });
  }
}

/** @param {import('node:child_process').ChildProcess} controller */
async function listening(controller) {
  const signal = AbortSignal.timeout(START_TIMEOUT_MS);
  let log = '';
  controller.stdout.on('data', (chunk) => (log += chunk));
  while (!log.includes('"msg":"listening"')) await once(controller.stdout, 'data', { signal });
}

/** @param {string} socketPath @param {string} route */
function getJson(socketPath, route) {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path: route }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk) => (text += chunk));
      response.on('end', () => {
        if (response.statusCode === 200) resolve(JSON.parse(text));
        else reject(new Error(`GET ${route}: ${text}`));
      });
      response.on('error', reject);
    });
    asked.on('error', reject);
    asked.end();
  });
}
