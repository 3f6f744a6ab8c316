import { anySignal } from '@forkd/engine';
import type { GuestAgent } from '@forkd/guest';
import { JsonList, LargeReply, type LongText } from '../large-reply.ts';
import { limits } from '../limits.ts';
import type { Share } from '../state/byte-pool.ts';
import type { Registry } from '../state/registry.ts';
import type { Sandbox } from '../state/sandbox.ts';
import type { Host } from './host.ts';
import { textOf } from './printed.ts';

/** The part of the host that operations inside a sandbox work on. */
export interface GuestHost extends Pick<Host, 'metrics' | 'output'> {
  registry: Pick<Registry, 'running'>;
}

/** A running sandbox, and a signal that fires when it ends or when `outer` fires. */
export function openGuest(
  { registry }: GuestHost,
  id: string,
  outer: AbortSignal,
): { sandbox: Sandbox; signal: AbortSignal } {
  const sandbox = registry.running(id);
  return { sandbox, signal: anySignal(outer, sandbox.ended.signal) };
}

/** Makes a reply whose texts may be long. Short texts are sent as part of an ordinary reply. */
export async function collect<Response extends object>(
  { output }: GuestHost,
  signal: AbortSignal,
  work: (share: Share) => Promise<{ fields: object; texts: Record<string, LongText> }>,
): Promise<Response | LargeReply> {
  const share = output.share(signal);
  try {
    const { fields, texts } = await work(share);
    const bytes = Object.values(texts).reduce((sum, text) => sum + text.length, 0);
    share.keep(bytes);
    if (bytes > limits.replyPieceBytes) return LargeReply.withTexts(fields, texts, () => share.release());
    share.release();
    const short = Object.entries(texts).map(([name, text]) => [name, textOf(text)]);
    return { ...Object.fromEntries(short), ...fields } as Response;
  } catch (error) {
    share.release();
    throw error;
  }
}

/** Replies with a list that may be long. */
export async function listAs(
  { output }: GuestHost,
  sandbox: Sandbox,
  signal: AbortSignal,
  gather: (agent: GuestAgent, list: JsonList, share: Share) => Promise<void>,
): Promise<LargeReply> {
  const share = output.share(signal);
  try {
    const call = async (agent: GuestAgent) => {
      const list = new JsonList();
      await gather(agent, list, share);
      return list;
    };
    const list = await sandbox.guest.call(call, { signal, repeatable: true });
    const pieces = list.end();
    share.keep(pieces.reduce((sum, piece) => sum + piece.length, 0));
    return LargeReply.ofJson(pieces, () => share.release());
  } catch (error) {
    share.release();
    throw error;
  }
}
