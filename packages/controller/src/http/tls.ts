import { X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { Server } from 'node:http';
import { Server as TlsServer } from 'node:https';
import { type SecureContextOptions, createSecureContext } from 'node:tls';
import type { Logger } from 'pino';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import { UsageError } from '../usage-error.ts';

/** Maximum length of a certificate chain or key. A longer file is some other file. */
const FILE_BYTES_MAX = 1024 * 1024;

type Pair = SecureContextOptions & { cert: Buffer };

export interface TlsPaths {
  cert: string;
  key: string;
}

/** The certificate and key of the TCP port, read again when they change. Open connections keep the earlier pair. */
export class TlsFiles {
  readonly #paths: TlsPaths;
  readonly #log: Logger;
  readonly #servers = new Set<TlsServer>();
  readonly #timer: NodeJS.Timeout;
  #context: Pair;
  #seen: string;
  #checking: Promise<void> | null = null;

  private constructor(paths: TlsPaths, context: Pair, seen: string, log: Logger) {
    this.#paths = paths;
    this.#context = context;
    this.#seen = seen;
    this.#log = log;
    // Poll instead of watching: such files are often links whose target changes in another directory.
    const failed = (error: unknown) => log.error({ reason: messageOf(error) }, 'could not check the TLS certificate');
    this.#timer = setInterval(() => {
      this.reload().catch(failed);
    }, limits.tlsCheckMs).unref();
  }

  /** Throws `UsageError` for files that cannot be read or do not belong together. */
  static async open(paths: TlsPaths, log: Logger): Promise<TlsFiles> {
    const seen = await stampOf(paths);
    const context = await readPair(paths);
    log.info(factsOf(paths, context), 'read the TLS certificate');
    return new TlsFiles(paths, context, seen, log);
  }

  get context(): SecureContextOptions {
    return this.#context;
  }

  /** True if the certificate covers this name. A browser that expects another name never sends its request. */
  covers(name: string): boolean {
    return new X509Certificate(this.#context.cert).checkHost(name) !== undefined;
  }

  /** Gives each new pair to a server. */
  serve(server: Server): void {
    if (!(server instanceof TlsServer)) return;
    this.#servers.add(server);
    server.once('close', () => this.#servers.delete(server));
  }

  /** Reads the files again if they have changed. A wrong pair leaves the earlier one in use. */
  reload(): Promise<void> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = null;
    });
    return this.#checking;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#checking;
  }

  async #check(): Promise<void> {
    const seen = await stampOf(this.#paths);
    if (seen === this.#seen) return;
    this.#seen = seen;
    try {
      this.#context = await readPair(this.#paths);
      for (const server of this.#servers) server.setSecureContext(this.#context);
      this.#log.info(factsOf(this.#paths, this.#context), 'read the TLS certificate again');
    } catch (error) {
      const why = 'the TLS certificate or key has changed and is wrong: the earlier pair stays';
      this.#log.error({ reason: messageOf(error) }, why);
    }
  }
}

/** Facts for the log, so that an expiry can be seen in advance. */
function factsOf({ cert: path }: TlsPaths, { cert }: Pair): object {
  return { cert: path, valid_until: new X509Certificate(cert).validTo };
}

async function stampOf({ cert, key }: TlsPaths): Promise<string> {
  const stamps = [cert, key].map(async (path) => {
    const found = await stat(path, { bigint: true }).catch(() => null);
    return found === null ? 'gone' : `${found.ino}:${found.size}:${found.mtimeNs}`;
  });
  return (await Promise.all(stamps)).join();
}

async function readPair({ cert: certPath, key: keyPath }: TlsPaths): Promise<Pair> {
  const cert = await readShort('--tls-cert', certPath);
  const key = await readShort('--tls-key', keyPath);
  if (((await stat(keyPath)).mode & 0o007) !== 0) {
    throw new UsageError(`--tls-key '${keyPath}' can be read by everybody; chmod 600 mends that.`);
  }
  const context: Pair = { cert, key, minVersion: 'TLSv1.2' };
  try {
    createSecureContext(context);
  } catch (error) {
    throw new UsageError(`--tls-cert '${certPath}' and --tls-key '${keyPath}' cannot be used: ${messageOf(error)}.`, {
      cause: error,
    });
  }
  return context;
}

async function readShort(flag: string, path: string): Promise<Buffer> {
  try {
    const { size } = await stat(path);
    if (size > FILE_BYTES_MAX) throw new Error(`it has ${size} bytes`);
    return await readFile(path);
  } catch (error) {
    throw new UsageError(`${flag} '${path}' cannot be read: ${messageOf(error)}.`, { cause: error });
  }
}
