import type { HostInfo } from '@forkd/api';
import { isForkdError } from '@forkd/sdk';
import type { Context } from '../../context.ts';
import { fail, pass, skip, type Row } from './row.ts';

/** Asks a controller that runs what it knows of the host. None is started: a doctor changes nothing. */
export async function checkController(context: Context): Promise<{ host: HostInfo | undefined; row: Row }> {
  const id = 'controller';
  try {
    const client = await context.runningClient();
    const host = await client.host({ signal: context.signal });
    return { host, row: pass(id, `version ${host.version}, pid ${host.pid}, at ${client.place}`) };
  } catch (error) {
    if (!isForkdError(error)) throw error;
    if (error.code === 'controller_not_running') {
      return { host: undefined, row: skip(id, 'does not run', 'any verb that needs one starts it') };
    }
    return { host: undefined, row: fail(id, error.message, error.hint ?? 'its log says more') };
  }
}
