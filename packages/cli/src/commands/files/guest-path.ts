import type { ForkdClient } from '@forkd/sdk';
import type { Context } from '../../context.ts';
import { UsageError } from '../../lib/errors.ts';
import { resolveSandbox } from '../../parse/resolve.ts';
import { parsePlace } from '../cp.ts';

interface GuestPath {
  client: ForkdClient;
  sandboxId: string;
  path: string;
}

/** Finds the sandbox of an argument `SANDBOX:PATH`. */
export async function guestPathOf(context: Context, text: string): Promise<GuestPath> {
  const place = parsePlace(text);
  if (place.kind !== 'guest')
    throw new UsageError(`"${text}" is not the path of a sandbox.`, 'Write it as SANDBOX:/path.');
  const client = await context.client();
  return { client, sandboxId: await resolveSandbox(client, place.sandbox, context), path: place.path };
}
