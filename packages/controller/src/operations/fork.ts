import { ApiError, type CreateSandboxesRequest, type PartialForkResponse, type SandboxInfo } from '@forkd/api';
import type { Host } from './host.ts';
import { startChildren } from './start-children.ts';

/** Starts sandboxes from a snapshot. With `partial`, the reply has one result for each child if some have failed. */
export async function fork(
  host: Host,
  request: CreateSandboxesRequest,
  signal: AbortSignal,
  requestKey: string | null,
): Promise<SandboxInfo[] | PartialForkResponse> {
  const started = await startChildren(host, request, signal, { requestKey });
  if (Array.isArray(started)) return started.map((sandbox) => sandbox.info());
  const results = started.results.map((result, index) => {
    if (!(result instanceof ApiError)) return { index, sandbox: result.info() };
    return { index, error: result.message, code: result.code, hint: result.hint };
  });
  return { results };
}

/** Ends the sandboxes of a fork whose caller never had the reply. */
export async function undoFork({ registry }: Host, made: SandboxInfo[] | PartialForkResponse): Promise<void> {
  const infos = Array.isArray(made)
    ? made
    : made.results.flatMap((result) => ('sandbox' in result ? [result.sandbox] : []));
  const ids = new Set(infos.map(({ id }) => id));
  const sandboxes = registry.all().filter(({ id }) => ids.has(id));
  await Promise.all(sandboxes.map((sandbox) => registry.end(sandbox)));
}
