import { createHmac, timingSafeEqual } from 'node:crypto';
import { unixNow } from '../../clock.ts';
import { openSecret } from '../../state/secret.ts';
import type { GuestPort } from './hosts.ts';

/** Signs URLs of ports, and cookies, that are of use without a token until they expire. */
export class PortKey {
  readonly #key: Uint8Array;

  constructor(key: Uint8Array) {
    this.#key = key;
  }

  /** The key in a file, made on first use. Without the file all URLs that it has signed are of no use. */
  static async open(path: string): Promise<PortKey> {
    return new PortKey(await openSecret(path));
  }

  sign(port: GuestPort, expiresUnix: number): string {
    return `${expiresUnix}.${this.#mac(port, expiresUnix).toString('base64url')}`;
  }

  /** When the right that `text` gives to this port ends. `null`: it gives none. */
  check(port: GuestPort, text: string): number | null {
    const [, digits, mac = ''] = /^(\d{1,11})\.([\w-]{43})$/.exec(text) ?? [];
    const expiresUnix = Number(digits);
    if (digits === undefined || expiresUnix <= unixNow()) return null;
    const shown = Buffer.from(mac, 'base64url');
    const known = this.#mac(port, expiresUnix);
    return shown.length === known.length && timingSafeEqual(shown, known) ? expiresUnix : null;
  }

  #mac({ sandbox, port }: GuestPort, expiresUnix: number): Buffer {
    return createHmac('sha256', this.#key).update(`forkd port ${sandbox} ${port} ${expiresUnix}`).digest();
  }
}
