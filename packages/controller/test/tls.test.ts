// Proves that the port speaks TLS of today's versions only, takes new certificates while connections stay, and keeps what it
// has when the new ones are wrong: real certificates, real connections.

import { once } from 'node:events';
import { chmod, copyFile, writeFile } from 'node:fs/promises';
import { connect as connectTcp } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, type TLSSocket, connect } from 'node:tls';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { TlsFiles } from '../src/http/tls.ts';
import { limits } from '../src/limits.ts';
import { UsageError } from '../src/usage-error.ts';
import { makePair } from './certificates.ts';
import { HttpLab } from './http-support.ts';
import { scratch, silent } from './support.ts';

const ASK = 'GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n';

async function open(lab: HttpLab, options: ConnectionOptions): Promise<TLSSocket> {
  const socket = connect({ host: '127.0.0.1', port: lab.port, ...options });
  onTestFinished(() => void socket.destroy());
  await once(socket, 'secureConnect');
  return socket;
}

async function healthOver(socket: TLSSocket): Promise<string> {
  socket.write(ASK);
  const [chunk] = (await once(socket, 'data')) as [Buffer];
  return chunk.toString();
}

test('TLS 1.2 and 1.3 are spoken, 1.1 and plain HTTP are not; the unix socket stays as it is', async () => {
  const { cert, key, pem } = await makePair(await scratch(), 'one');
  const tls = await TlsFiles.open({ cert, key }, silent);
  onTestFinished(() => tls.close());
  const lab = await HttpLab.serve({}, silent, null, { tls });
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const socket = await open(lab, { ca: pem, minVersion: version, maxVersion: version });
    expect(await healthOver(socket)).toContain('{"ok":true}');
    expect(socket.getProtocol()).toBe(version);
  }
  const old = { ca: pem, minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
  await expect(open(lab, old)).rejects.toThrow(/alert protocol version|no protocols available/);
  const plain = connectTcp(lab.port, '127.0.0.1').on('error', () => undefined);
  plain.end(ASK);
  let answer = '';
  plain.on('data', (chunk) => (answer += chunk.toString('latin1')));
  await once(plain, 'close');
  expect(answer).not.toContain('ok');
  expect((await lab.ask('GET', '/healthz')).status).toBe(200);
});

test('a handshake must come in time', async () => {
  const { cert, key } = await makePair(await scratch(), 'one');
  const tls = await TlsFiles.open({ cert, key }, silent);
  onTestFinished(() => tls.close());
  const lab = await HttpLab.serve({}, silent, null, { tls, bounds: { ...limits.http, headersTimeoutMs: 200 } });
  const silentOne = connectTcp(lab.port, '127.0.0.1').on('error', () => undefined);
  await once(silentOne.resume(), 'close');
  expect((await lab.ask('GET', '/healthz')).status).toBe(200);
});

test('new files are taken while connections stay; wrong ones are not, and are said', async () => {
  const dir = await scratch();
  const [one, two] = [await makePair(dir, 'one'), await makePair(dir, 'two')];
  const paths = { cert: join(dir, 'cert.pem'), key: join(dir, 'key.pem') };
  const use = async (cert: string, key: string) => {
    await copyFile(cert, paths.cert);
    await copyFile(key, paths.key);
    await chmod(paths.key, 0o600);
  };
  await use(one.cert, one.key);
  const logged: { msg: string; reason?: string }[] = [];
  const log = pino({}, { write: (line) => void logged.push(JSON.parse(line)) });
  const tls = await TlsFiles.open(paths, log);
  onTestFinished(() => tls.close());
  const lab = await HttpLab.serve({}, silent, null, { tls });
  const subjectNow = async () => {
    const socket = await open(lab, { ca: [one.pem, two.pem] });
    const { subject } = socket.getPeerCertificate();
    socket.destroy();
    return subject.CN;
  };
  const early = await open(lab, { ca: one.pem });
  expect(await healthOver(early)).toContain('200 OK');

  // Nobody says that they have changed.
  await use(two.cert, two.key);
  await expect.poll(subjectNow, { timeout: 10_000 }).toBe('two');
  expect(await healthOver(early)).toContain('200 OK');
  expect(early.getPeerCertificate().subject.CN).toBe('one');

  for (const [cert, key] of [
    [one.cert, two.key],
    ['/etc/hostname', two.key],
  ] as const) {
    await use(cert, key);
    await tls.reload();
    expect(await subjectNow()).toBe('two');
    expect(logged.at(-1)?.msg).toContain('the earlier pair stays');
  }
  await use(one.cert, one.key);
  await tls.reload();
  expect(await subjectNow()).toBe('one');
  expect(JSON.stringify(logged)).not.toContain('PRIVATE KEY');
});

test('files that cannot be used are refused at the start', async () => {
  const dir = await scratch();
  const [one, two] = [await makePair(dir, 'one'), await makePair(dir, 'two')];
  const junk = join(dir, 'junk');
  await writeFile(junk, 'junk', { mode: 0o600 });
  const readable = join(dir, 'readable.key');
  await copyFile(one.key, readable);
  await chmod(readable, 0o644);
  for (const [paths, why] of [
    [{ cert: one.cert, key: two.key }, 'cannot be used'],
    [{ cert: junk, key: one.key }, 'cannot be used'],
    [{ cert: one.cert, key: junk }, 'cannot be used'],
    [{ cert: '/nowhere', key: one.key }, "--tls-cert '/nowhere' cannot be read"],
    [{ cert: one.cert, key: '/nowhere' }, "--tls-key '/nowhere' cannot be read"],
    [{ cert: one.cert, key: readable }, 'can be read by everybody'],
  ] as const) {
    const opening = TlsFiles.open(paths, silent);
    await expect(opening).rejects.toThrow(UsageError);
    await expect(opening).rejects.toThrow(why);
  }
});
