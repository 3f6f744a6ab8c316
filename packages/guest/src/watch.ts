import { toldByAgent } from './errors.ts';
import { badFrame, framesOf, jsonOf } from './framed-reply.ts';
import { OUTPUT_EVENTS_PER_TURN } from './limits.ts';
import { turns } from './turns.ts';
import type { FileChange } from './types.ts';
import { replies } from './wire.ts';

const kinds = { change: 0, error: 1 } as const;

/** The changes of a watch, as they come. Ends when the watched path is gone. Throws the error for which the agent ended it. */
export async function* changesOf(chunks: AsyncIterable<Uint8Array>, status: number): AsyncGenerator<FileChange> {
  let count = 0;
  for await (const frames of framesOf(chunks)) {
    for (const frame of frames) {
      if (frame.kind === kinds.error) {
        const { code, error } = jsonOf(frame, replies.error);
        throw toldByAgent(status, code, error);
      }
      if (frame.kind !== kinds.change) throw badFrame(frame);
      yield jsonOf(frame, replies.change);
      count += 1;
      if (count % OUTPUT_EVENTS_PER_TURN === 0) await turns.next();
    }
  }
}
