import type { Logger } from 'pino';

import { limits } from '../limits.ts';
import { AuditLog } from '../observe/audit.ts';
import { Metrics } from '../observe/metrics.ts';
import { openTracing } from '../observe/tracing.ts';
import type { Options } from '../options.ts';
import type { Scope } from '../scope.ts';
import type { Edge } from './app-parts.ts';
import { TlsFiles } from './tls.ts';
import { Tokens } from './tokens.ts';

/** Opens the files that stand between callers and services. `scope` closes them. */
export async function openEdge(options: Options, log: Logger, scope: Scope): Promise<Edge> {
  const tokens = options.tokenFile === null ? null : await Tokens.open(options.tokenFile, log);
  const tls = options.tls === null ? null : await TlsFiles.open(options.tls, log);
  scope.defer('the TLS files', () => tls?.close());
  const audit = options.auditLog === null ? null : await AuditLog.open(options.auditLog, log);
  scope.defer('the audit log', () => audit?.close());
  const closeTracing = await openTracing(process.env, log);
  scope.defer('the spans', () => closeTracing?.());
  return { tokens, tls, audit, metrics: new Metrics(), bounds: limits.http, log };
}

/** All that was opened, anew: somebody has changed it, or moved it away. */
export async function reloadEdge({ tokens, tls, audit }: Edge): Promise<void> {
  await Promise.all([tokens?.reload(), tls?.reload(), audit?.reopen()]);
}
