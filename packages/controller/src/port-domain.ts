/** A domain, and how it is reached where a proxy serves it: otherwise it is as the controller itself. */
export interface PortDomain {
  name: string;
  served: Served | null;
}

/** How callers reach a server. */
export interface Served {
  scheme: 'http' | 'https';
  port: number;
}
