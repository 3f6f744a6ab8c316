import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface Pair {
  cert: string;
  key: string;
  /** What a client trusts. */
  pem: string;
}

/** A certificate for this host's loopback, signed by itself, in `dir`. */
export async function makePair(dir: string, name: string, days = 1): Promise<Pair> {
  const [cert, key] = [join(dir, `${name}.crt`), join(dir, `${name}.key`)];
  const subject = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
  await run('openssl', [
    'req',
    '-x509',
    ...curve,
    '-nodes',
    '-days',
    `${days}`,
    '-keyout',
    key,
    '-out',
    cert,
    ...subject,
  ]);
  return { cert, key, pem: await readFile(cert, 'utf8') };
}
