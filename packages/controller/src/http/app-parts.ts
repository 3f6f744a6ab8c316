import type { Logger } from 'pino';

import type { AuditLog } from '../observe/audit.ts';
import type { Metrics } from '../observe/metrics.ts';
import type { HttpBounds } from './server-factory.ts';
import type { Services } from './services.ts';
import type { Signals } from './signals.ts';
import type { TlsFiles } from './tls.ts';
import type { Tokens } from './tokens.ts';
import type { Traffic } from './traffic.ts';

/** What the routes have in common. */
export interface AppParts extends Edge {
  services: Services;
  signals: Signals;
  traffic: Traffic;
  /** Who can open the unix socket is the owner; who reaches the TCP port may be anybody on the host. */
  listener: 'socket' | 'tcp';
}

/** What stands between the callers and the services. */
export interface Edge {
  /** Asked for on the TCP port. `null`: whoever reaches it may call. */
  tokens: Tokens | null;
  /** Of the TCP port. `null`: plain HTTP. */
  tls: TlsFiles | null;
  audit: AuditLog | null;
  metrics: Metrics;
  bounds: HttpBounds;
  log: Logger;
}
