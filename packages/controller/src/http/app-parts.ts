import type { Logger } from 'pino';
import type { AuditLog } from '../observe/audit.ts';
import type { Metrics } from '../observe/metrics.ts';
import type { Run } from '../operations/host.ts';
import type { Replies } from '../state/replies.ts';
import type { PortHosts } from './ports/hosts.ts';
import type { PortKey } from './ports/keys.ts';
import type { HttpBounds } from './server-factory.ts';
import type { Signals } from './signals.ts';
import type { Tickets } from './tickets.ts';
import type { TlsFiles } from './tls.ts';
import type { Tokens } from './tokens.ts';
import type { Traffic } from './traffic.ts';
import type { Upgrades } from './upgrades.ts';
import type { HostNames } from './web-guard.ts';

/** The parts that the routes have in common. */
export interface AppParts extends Backend, Ingress {
  signals: Signals;
  traffic: Traffic;
  tickets: Tickets;
  upgrades: Upgrades;
  /** Only the owner can open the unix socket. Any user of the host may reach the TCP port. */
  listener: 'socket' | 'tcp';
}

/** The parts that do the work behind the routes. */
export interface Backend {
  run: Run;
  replies: Pick<Replies, 'answer'>;
}

/** The parts that a request passes before it reaches a route. */
export interface Ingress {
  /** The tokens that the TCP port accepts. `null`: it asks for none. */
  tokens: Tokens | null;
  /** The certificate of the TCP port. `null`: plain HTTP. */
  tls: TlsFiles | null;
  /** The host names by which the TCP port may be called. */
  hosts: HostNames;
  /** The host names of ports of sandboxes. */
  ports: PortHosts;
  /** Signs URLs of ports. */
  portKey: PortKey;
  audit: AuditLog | null;
  metrics: Metrics;
  bounds: HttpBounds;
  log: Logger;
}
