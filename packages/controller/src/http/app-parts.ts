import type { Logger } from 'pino';

import type { Services } from './services.ts';
import type { Signals } from './signals.ts';
import type { Tokens } from './tokens.ts';

/** What the routes have in common. */
export interface AppParts {
  services: Services;
  signals: Signals;
  log: Logger;
  /** Who can open the unix socket is the owner; who reaches the TCP port may be anybody on the host. */
  listener: 'socket' | 'tcp';
  /** Asked for on the TCP port. `null`: whoever reaches it may call. */
  tokens: Tokens | null;
}
