/**
 * A web page cannot use the controller of the one who looks at it. A real browser opens pages of another origin, of another
 * port of this host, and of a name that is resolved anew to this host once its page is there; they try all that browsers let
 * pages do without asking. Each request arrives, as the audit log shows, and each is refused.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { connect, createServer as createSwitch, type AddressInfo, type Server as Switch } from 'node:net';
import { join } from 'node:path';
import { forkOne, killIfThere, TestController } from '@forkd/testing';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';

const WAIT_MS = 60_000;
const BROWSER = 'chromium';
const SCRIPT = new URL('programs/attacking-page.mjs', import.meta.url);

const hasBrowser = spawnSync(BROWSER, ['--version']).status === 0;
if (!hasBrowser) console.warn(`tests/e2e/web-page.test.ts is skipped: there is no ${BROWSER} on this machine.`);

let dir: string;
let controller: TestController;
let sandbox: string;
const audit = () => join(dir, 'audit.log');

beforeAll(async () => {
  if (!hasBrowser) return;
  dir = await mkdtemp('/tmp/fkw-');
  controller = await TestController.start({
    args: ['--bind', '127.0.0.1:0', '--audit-log', audit()],
    template: true,
  });
  sandbox = await forkOne(controller.client);
});

afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
  if (dir) await rm(dir, { recursive: true });
});

/** The attacker's own server: any page, and where it reports to. */
class Attacker {
  readonly server: Server;
  readonly reported: Promise<Record<string, string>>;
  page = '';

  constructor() {
    let report: (outcomes: Record<string, string>) => void;
    this.reported = new Promise((resolve) => (report = resolve));
    this.server = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString()));
      request.on('end', () => {
        if (request.url === '/report') report(JSON.parse(body) as Record<string, string>);
        response.setHeader('content-type', 'text/html').setHeader('connection', 'close');
        response.end(request.url === '/' ? this.page : '');
      });
    });
  }

  async listen(): Promise<number> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return (this.server.address() as AddressInfo).port;
  }

  /** The attempts of a page at `url`, once the browser has opened it. */
  async outcomes(url: string, target: string, home: string): Promise<Record<string, string>> {
    const call = [target, sandbox, home].map((text) => JSON.stringify(text)).join();
    this.page = `<!doctype html><body><script type="module">${await readFile(SCRIPT, 'utf8')}\nawait attack(${call});</script>`;
    const profile = join(dir, 'profile');
    const rules = 'MAP evil.test 127.0.0.1, MAP rebound.test 127.0.0.1';
    const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', `--user-data-dir=${profile}`];
    // A group of its own: a browser is many processes.
    const args = [
      ...flags,
      '--disable-dev-shm-usage',
      `--host-resolver-rules=${rules}`,
      '--remote-debugging-port=0',
      url,
    ];
    const browser = spawn(BROWSER, args, { detached: true, stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    browser.stderr.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-4000)));
    const ended = once(browser, 'exit');
    const late = new Promise<never>((_resolve, reject) => {
      setTimeout(
        () => reject(new Error(`not within ${WAIT_MS} ms: the page reports; the browser said: ${said}`)),
        WAIT_MS,
      ).unref();
    });
    try {
      return await Promise.race([this.reported, late]);
    } finally {
      killIfThere(-(browser.pid ?? 0));
      await ended;
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    }
  }
}

/**
 * A port that is both servers: the page comes from `first` and all else goes to `then`, as with a name that is resolved anew. Each
 * connection is given to one of them by its first request, since browsers open connections ahead of what they ask for.
 */
async function listenAsBoth(first: number, then: number): Promise<Switch> {
  const both = createSwitch((near) => {
    near.on('error', () => near.destroy());
    near.once('data', (request: Buffer) => {
      near.pause();
      const far = connect(request.toString().startsWith('GET / ') ? first : then, '127.0.0.1');
      near.on('close', () => far.destroy());
      far.on('error', () => near.destroy());
      far.write(request);
      near.pipe(far).pipe(near);
    });
  });
  both.listen(0, '127.0.0.1');
  await once(both, 'listening');
  return both;
}

interface Line {
  method: string;
  path: string;
  status: number;
}

async function auditLines(): Promise<Line[]> {
  return (await readFile(audit(), 'utf8'))
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line & { remote: string })
    .filter(({ remote }) => remote !== 'unix');
}

let attacker: Attacker;
let home: number;
let seen: number;

beforeEach(async () => {
  if (!hasBrowser) return;
  attacker = new Attacker();
  home = await attacker.listen();
  seen = (await auditLines()).length;
});

afterEach(() => void attacker?.server.close());

/** Nothing is as it was not before, and every request that came was refused. */
async function expectNothingDone(outcomes: Record<string, string>): Promise<string[]> {
  const { client } = controller;
  expect((await client.listSandboxes()).map(({ id, state }) => [id, state])).toEqual([[sandbox, 'running']]);
  expect((await client.listSnapshots()).map(({ tag }) => tag)).toEqual(['base']);
  expect(outcomes).toMatchObject({ events: 'error', 'web socket': 'error' });
  const lines = (await auditLines()).slice(seen);
  expect(lines.filter(({ status }) => status !== 403)).toEqual([]);
  return lines.map((line) => `${line.method} ${line.path.replace(sandbox, 'ID')}`);
}

const sent = [
  'POST /v1/sandboxes',
  'POST /v1/sandboxes/ID/branch',
  'POST /v1/sandboxes/ID/pause',
  'GET /v1/sandboxes',
  'GET /metrics',
  'GET /v1/events',
];

for (const [where, host] of [
  ['of another site', 'evil.test'],
  ['of another port of this host', 'localhost'],
] as const) {
  test.skipIf(!hasBrowser)(`a page ${where} changes nothing and reads nothing`, { timeout: 120_000 }, async () => {
    const outcomes = await attacker.outcomes(`http://${host}:${home}/`, controller.url, `http://${host}:${home}`);
    const arrived = await expectNothingDone(outcomes);
    expect(arrived).toEqual(expect.arrayContaining(sent));
    expect(outcomes['list']).toMatch(/^threw /);
    expect(outcomes['fork as JSON']).toMatch(/^threw /);
  });
}

test.skipIf(!hasBrowser)(
  'a page whose name is resolved to this host changes nothing',
  { timeout: 120_000 },
  async () => {
    const both = await listenAsBoth(home, Number(new URL(controller.url).port));
    try {
      const origin = `http://rebound.test:${(both.address() as AddressInfo).port}`;
      const outcomes = await attacker.outcomes(`${origin}/`, origin, `http://evil.test:${home}`);
      const arrived = await expectNothingDone(outcomes);
      expect(arrived).toEqual(expect.arrayContaining(sent));
      // The page may read replies of its own origin: all that it reads is why it is refused.
      expect(outcomes['list']).toMatch(/^403 .*host_not_allowed/);
      expect(outcomes['fork as JSON']).toMatch(/^403 .*host_not_allowed/);
    } finally {
      both.close();
    }
  },
);
