import { join } from 'node:path';
import type { Logger } from 'pino';
import { limits } from '../limits.ts';
import { AuditLog } from '../observe/audit.ts';
import { Metrics } from '../observe/metrics.ts';
import { openTracing } from '../observe/tracing.ts';
import type { Options } from '../options.ts';
import type { Scope } from '../scope.ts';
import type { Ingress } from './app-parts.ts';
import { PortHosts } from './ports/hosts.ts';
import { PortKey } from './ports/keys.ts';
import { TlsFiles } from './tls.ts';
import { Tokens } from './tokens.ts';
import { HostNames } from './web-guard.ts';

/** Opens the files that stand between the callers and the routes. `scope` closes them. */
export async function openIngress(options: Options, log: Logger, scope: Scope): Promise<Ingress> {
  const tokens = options.tokenFile === null ? null : await Tokens.open(options.tokenFile, log);
  const tls = options.tls === null ? null : await TlsFiles.open(options.tls, log);
  scope.defer('the TLS files', () => tls?.close());
  const audit = options.auditLog === null ? null : await AuditLog.open(options.auditLog, log);
  scope.defer('the audit log', () => audit?.close());
  const closeTracing = await openTracing(process.env, log);
  scope.defer('the spans', () => closeTracing?.());
  const hosts = new HostNames(options, tls);
  const ports = new PortHosts(options.portDomain);
  const portKey = await PortKey.open(join(options.dataDir, 'port-urls.key'));
  const metrics = new Metrics();
  scope.defer('the look at the event loop', metrics.watchEventLoop());
  return { tokens, tls, hosts, ports, portKey, audit, metrics, bounds: limits.http, log };
}

/** Opens the files again, since they were changed or moved away. */
export async function reloadIngress({ tokens, tls, audit }: Ingress): Promise<void> {
  await Promise.all([tokens?.reload(), tls?.reload(), audit?.reopen()]);
}
