import { isSandboxId } from '@forkd/api';
import type { PortDomain, Served } from '../../port-domain.ts';

/** A port of a sandbox. */
export interface GuestPort {
  sandbox: string;
  port: number;
}

const PORT_MAX = 65_535;
const label = /^(\d{1,5})-(sb-[0-9a-f]+)\.(.+)$/;

/**
 * The host names that stand for ports of sandboxes: `8000-sb-3f9a1c0b7e.localhost`. Each is an origin of its own to a browser. Only ids
 * are in them: the next sandbox of a name must not get what a browser keeps for an earlier one.
 */
export class PortHosts {
  readonly domain: string;
  #served: Served | null;

  constructor({ name, served }: PortDomain) {
    this.domain = name.toLowerCase();
    this.#served = served;
  }

  /** Notes how the controller is reached. Its first address counts, unless the domain says how. */
  serve(served: Served): void {
    this.#served ??= served;
  }

  /** The end of the addresses of ports, after `PORT-ID.`: the domain, and the number of the listener. `null`: nothing serves them. */
  get authority(): string | null {
    if (this.#served === null) return null;
    const { scheme, port } = this.#served;
    return port === (scheme === 'https' ? 443 : 80) ? this.domain : `${this.domain}:${port}`;
  }

  /** The address of a port. `null`: nothing serves it. */
  urlOf({ sandbox, port }: GuestPort): string | null {
    const { authority } = this;
    return authority === null ? null : `${this.#served?.scheme}://${port}-${sandbox}.${authority}/`;
  }

  /** The port that a `Host` header or the authority of an `Origin` means. */
  read(host: string | undefined): GuestPort | null {
    const [, digits, sandbox = '', rest] = label.exec((host ?? '').toLowerCase().replace(/:\d{1,5}$/, '')) ?? [];
    const port = Number(digits);
    const fits = rest === this.domain && isSandboxId(sandbox) && port >= 1 && port <= PORT_MAX;
    return fits ? { sandbox, port } : null;
  }
}
