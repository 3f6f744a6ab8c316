// Proves that no web page can use the port: by another name that resolves to this host, from another origin or another port of
// it, on any route, with any content type, with and without tokens; and that the names that programs use go on working.
import { writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { TlsFiles } from '../src/http/tls.ts';
import { Tokens } from '../src/http/tokens.ts';
import { HostNames } from '../src/http/web-guard.ts';
import { makePair } from './certificates.ts';
import { expectError, HttpLab } from './http-support.ts';
import { scratch, silent } from './support.ts';

const bind = (host: string) => ({ bind: { host, port: 8889 }, allowHosts: ['forkd.example', 'Second'] });

const routes: [string, string][] = [
  ['GET', '/healthz'],
  ['GET', '/docs'],
  ['GET', '/openapi.json'],
  ['GET', '/metrics'],
  ['GET', '/v1/events'],
  ['GET', '/v1/sandboxes'],
  ['GET', '/nowhere'],
  ['OPTIONS', '/v1/sandboxes'],
  ['POST', '/v1/sandboxes'],
  ['POST', '/v1/sandboxes/sb-1/pause'],
  ['POST', '/v1/sandboxes/sb-1/branch'],
  ['POST', '/v1/sandboxes/sb-1/commands/c-1/stdin'],
  ['PUT', '/v1/sandboxes/sb-1/files?path=/f'],
  ['DELETE', '/v1/sandboxes/sb-1'],
];

const foreign: [Record<string, string>, string][] = [
  [{ host: 'evil.example' }, 'host_not_allowed'],
  [{ host: 'evil.example:8889' }, 'host_not_allowed'],
  [{ host: 'localhost.evil.example' }, 'host_not_allowed'],
  [{ host: '127.0.0.1.evil.example' }, 'host_not_allowed'],
  [{ host: 'localhost@evil.example' }, 'host_not_allowed'],
  [{ host: '192.0.2.1' }, 'host_not_allowed'],
  [{ host: 'localhost', origin: 'https://evil.example' }, 'origin_not_allowed'],
  [{ host: 'localhost', origin: 'null' }, 'origin_not_allowed'],
  [{ host: 'localhost:1', origin: 'http://localhost:2' }, 'origin_not_allowed'],
  [{ host: 'localhost', origin: 'http://localhost, http://evil.example' }, 'origin_not_allowed'],
  [{ host: 'localhost', 'sec-fetch-site': 'cross-site' }, 'origin_not_allowed'],
  [{ host: 'localhost', 'sec-fetch-site': 'same-site' }, 'origin_not_allowed'],
];

const contents = [
  'application/json',
  'text/plain',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
];

async function withTokens(): Promise<Tokens> {
  const path = join(await scratch(), 'tokens');
  await writeFile(path, 'a-token-of-sixteen-bytes-or-more', { mode: 0o600 });
  return Tokens.open(path, silent);
}

for (const [how, tokens] of [
  ['without tokens', async () => null],
  ['with tokens', withTokens],
] as const) {
  test(`a page is refused on every route, ${how}, and nothing is called`, async () => {
    const lab = await HttpLab.serve({}, silent, await tokens());
    for (const [headers, code] of foreign) {
      for (const [method, path] of routes) {
        const reply = await lab.ask(method, path, { tcp: true, headers });
        expectError(reply, 403, code);
        expect(reply.headers['access-control-allow-origin']).toBeUndefined();
      }
    }
    for (const type of contents) {
      const headers = { origin: 'http://evil.example', 'content-type': type };
      const body = '{"snapshot_tag":"py"}';
      expectError(await lab.ask('POST', '/v1/sandboxes', { tcp: true, headers, body }), 403, 'origin_not_allowed');
    }
    expect(lab.calls).toEqual([]);
  });
}

test('programs, and what a user types into a browser, are answered; the unix socket asks for nothing', async () => {
  const lab = await HttpLab.serve();
  const own: Record<string, string>[] = [
    {},
    { host: 'localhost' },
    { host: `LOCALHOST:${lab.port}` },
    { host: '127.0.0.1:9000' },
    { host: `[::1]:${lab.port}` },
    { host: 'localhost', 'sec-fetch-site': 'none' },
    { host: 'localhost:1', origin: 'http://localhost:1', 'sec-fetch-site': 'same-origin' },
  ];
  for (const headers of own) expect((await lab.ask('GET', '/version', { tcp: true, headers })).status).toBe(200);
  const page = { host: 'evil.example', origin: 'http://evil.example', 'sec-fetch-site': 'cross-site' };
  expect((await lab.ask('GET', '/version', { headers: page })).status).toBe(200);
});

test('what counts as this host depends on where the port is', async () => {
  const { cert, key } = await makePair(await scratch(), 'names');
  const tls = await TlsFiles.open({ cert, key }, silent);
  onTestFinished(() => tls.close());
  const loopback = new HostNames(bind('127.0.0.1'), null);
  const everywhere = new HostNames(bind('0.0.0.0'), null);
  const named = new HostNames(bind('build.example'), tls);
  const all = [
    'localhost',
    '10.1.2.3:80',
    '[fe80::1]:1',
    hostname(),
    'build.example',
    'FORKD.example:1',
    'second',
    'evil.example',
  ];
  const known = (names: HostNames) => all.filter((name) => names.has(name));
  expect(known(loopback)).toEqual(['localhost', 'FORKD.example:1', 'second']);
  const open = all.filter((name) => !['build.example', 'evil.example'].includes(name));
  expect(known(everywhere)).toEqual(open);
  expect(known(named)).toEqual(all.filter((name) => name !== 'evil.example'));
  expect(
    new HostNames(bind('127.0.0.1'), { covers: (name) => name === 'of.the.certificate' }).has('of.the.certificate'),
  ).toBe(true);
  expect(tls.covers('localhost')).toBe(true);
  expect(tls.covers('evil.example')).toBe(false);
});
