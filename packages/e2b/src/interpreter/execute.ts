import { randomUUID } from 'node:crypto';
import type { GuestCall } from '../envd/route.ts';
import { E2bError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Parts } from '../parts.ts';
import type { Context } from './contexts.ts';

export interface Cell {
  code: string;
  env: Record<string, string>;
}

/** Runs a cell, one at a time in each context, and gives what it prints and shows. A cell whose caller leaves is interrupted. */
export async function* execute(parts: Parts, call: GuestCall, context: Context, cell: Cell): AsyncGenerator<object> {
  const { id, signal } = call;
  const endTurn = await parts.turns.begin(`${id} ${context.id}`, signal);
  const request = { id: randomUUID(), ...cell };
  let hasEnded = false;
  try {
    for await (const reply of repliesTo(parts, call, context, request)) {
      if (reply['type'] === 'end') {
        hasEnded = true;
        return;
      }
      yield reply;
    }
    hasEnded = true;
    yield { type: 'error', name: 'ContextEnded', value: 'The interpreter of the context has ended.', traceback: '' };
  } finally {
    if (!hasEnded) await interrupt(parts, id, context);
    endTurn();
  }
}

async function interrupt({ operations }: Parts, id: string, { commandId }: Context): Promise<void> {
  const signal = AbortSignal.timeout(limits.interruptMs);
  // The sandbox may be gone, and the cell with it.
  await operations.signalCommand(id, commandId, 'INT', signal).catch(() => undefined);
}

/** The replies of the program to one request. They end without an `end` if the program does. */
async function* repliesTo(
  { operations }: Parts,
  { id, signal }: GuestCall,
  { commandId }: Context,
  request: Cell & { id: string },
): AsyncGenerator<Record<string, unknown>> {
  const { output_end: offset } = await operations.getCommand(id, commandId, signal);
  const follower = new AbortController();
  const leave = (): void => follower.abort(signal.reason);
  signal.throwIfAborted();
  signal.addEventListener('abort', leave, { once: true });
  const events = operations.followOutput(id, commandId, { offset, follow: true }, follower.signal);
  try {
    // Followed before the request is sent, so that nothing of its output is dropped.
    const first = events.next();
    first.catch(() => undefined);
    const line = Buffer.from(`${JSON.stringify(request)}\n`);
    await operations.writeStdin(id, commandId, line, false, signal);
    let held = '';
    const decoder = new TextDecoder();
    for (let event = await first; event.done !== true; event = await events.next()) {
      if (event.value.type === 'exit') return;
      if (event.value.type !== 'stdout') continue;
      held += decoder.decode(Buffer.from(event.value.data, 'base64'), { stream: true });
      const lines = held.split('\n');
      held = lines.pop() ?? '';
      if (held.length > limits.resultCharsMax) throw new E2bError(500, 'A result of the cell is too long.');
      for (const text of lines) {
        const { id: requestId, ...reply } = parsed(text);
        if (requestId === request.id) yield reply;
      }
    }
  } finally {
    signal.removeEventListener('abort', leave);
    follower.abort();
    await events.return(undefined);
  }
}

/** A program of the guest may write anything where replies belong. */
function parsed(line: string): Record<string, unknown> {
  try {
    const reply: unknown = JSON.parse(line);
    if (typeof reply === 'object' && reply !== null) return reply as Record<string, unknown>;
  } catch {
    // Not a reply.
  }
  return {};
}
