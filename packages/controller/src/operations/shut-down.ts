import type { ShutdownResponse } from '@forkd/api';
import type { Host } from './host.ts';

/** Ends the controller, and all sandboxes first if the caller says so. */
export async function shutDown(
  { registry, end }: Pick<Host, 'registry' | 'end'>,
  endSandboxes: boolean,
): Promise<ShutdownResponse> {
  const ended = endSandboxes ? registry.all() : [];
  await Promise.all(ended.map((sandbox) => registry.end(sandbox)));
  // The reply goes out first: the listeners drain before they close.
  setImmediate(() => end('asked to'));
  return { pid: process.pid, sandboxes_ended: ended.length };
}
