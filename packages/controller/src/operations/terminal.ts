import { ApiError, type CommandInfo, type PtySize, limits } from '@forkd/api';
import type { GuestAgent, PtyView } from '@forkd/guest';
import { toApiError } from '../errors.ts';
import { guestFailure } from '../state/guest-errors.ts';
import { waitForReason } from '../state/vm-end.ts';
import { infoOf } from './commands.ts';
import { openGuest, type GuestHost } from './guest-replies.ts';

/** A connection of one viewer to the terminal of a command. */
export interface Terminal {
  info: CommandInfo;
  /** The bytes for the viewer's screen. `exit` is set at the end of the command. */
  view: PtyView;
  /** Types into the terminal. Resolves when the terminal has taken all of it. */
  write(data: Uint8Array): Promise<void>;
  resize(size: PtySize): Promise<void>;
  signal(name: string | number): Promise<void>;
  /** The reason for which the view has failed. */
  explain(error: unknown): Promise<ApiError>;
  /** Frees the viewer's place. */
  release(): void;
}

/** Views the terminal of a command, from an offset on or from its screen as it is. Any number of viewers type into it. */
export async function openTerminal(
  host: GuestHost,
  id: string,
  commandId: string,
  offset: number | undefined,
  outer: AbortSignal,
): Promise<Terminal> {
  const { sandbox, signal } = openGuest(host, id, outer);
  if (sandbox.viewers >= limits.ptyViewersMax) {
    throw new ApiError('too_many_viewers', `Sandbox ${id} has ${sandbox.viewers} connections to terminals already.`);
  }
  sandbox.viewers += 1;
  let isReleased = false;
  const release = (): void => {
    if (!isReleased) sandbox.viewers -= 1;
    isReleased = true;
  };
  const call = <T>(work: (agent: GuestAgent) => Promise<T>) => sandbox.guest.call(work, { signal });
  try {
    const open = async (agent: GuestAgent) => {
      const info = infoOf(await agent.get(commandId, { signal }));
      return { info, view: await agent.view(commandId, { offset, signal }) };
    };
    const { info, view } = await sandbox.guest.call(open, { signal, repeatable: true });
    return {
      info,
      view,
      write: (data) => call((agent) => agent.writeStdin(commandId, data, { signal })),
      resize: (size) => resizeTerminal(host, id, commandId, size, outer),
      signal: async (name) => {
        await call((agent) => agent.signal(commandId, name, { signal }));
      },
      async explain(error) {
        if (!signal.aborted) await waitForReason(signal);
        return signal.aborted ? toApiError(signal.reason) : guestFailure(id, error);
      },
      release,
    };
  } catch (error) {
    release();
    throw error;
  }
}

export async function resizeTerminal(
  host: GuestHost,
  id: string,
  commandId: string,
  size: PtySize,
  outer: AbortSignal,
): Promise<void> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const { cols, rows } = size;
  const isRunning = await sandbox.guest.call((agent) => agent.resize(commandId, { cols, rows }, { signal }), {
    signal,
  });
  if (isRunning) return;
  throw new ApiError('command_ended', `Sandbox ${id}: command ${commandId} does not run any more.`);
}
