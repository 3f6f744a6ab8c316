import { limits } from '@forkd/api/constants';
import { concatBytes, textOf } from './bytes.ts';
import { ForkdError } from './errors.ts';

const NEWLINE = 0x0a;

/**
 * Parses an NDJSON body. Chunks may be split anywhere: inside a line or inside a character.
 * @throws ForkdError `stream_cut` when the body ends inside a line, `bad_response` for a line that is not JSON or is too long.
 */
export async function* parseNdjson<Event>(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Event> {
  // Pieces of the unfinished line. They are joined once, when the line ends, so that many small chunks cost linear time.
  let pieces: Uint8Array[] = [];
  let pendingBytes = 0;
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      pieces.push(chunk.subarray(start, end));
      const line = decodeLine(pieces);
      pieces = [];
      pendingBytes = 0;
      start = end + 1;
      if (line !== '') yield parseLine(line) as Event;
    }
    if (start < chunk.length) {
      pieces.push(chunk.subarray(start));
      pendingBytes += chunk.length - start;
      if (pendingBytes > limits.ndjsonLineBytesMax) {
        throw new ForkdError('bad_response', `The stream has a line of more than ${limits.ndjsonLineBytesMax} bytes.`);
      }
    }
  }
  const rest = decodeLine(pieces);
  if (rest !== '') yield parseRest(rest) as Event;
}

function decodeLine(pieces: readonly Uint8Array[]): string {
  return textOf(concatBytes(pieces)).trim();
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line) as unknown;
  } catch (error) {
    throw new ForkdError('bad_response', `The stream has a line that is not JSON: ${line.slice(0, 120)}`, {
      cause: error,
    });
  }
}

/** A last line without a newline is complete if it parses: a truncated object never does. */
function parseRest(rest: string): unknown {
  try {
    return JSON.parse(rest) as unknown;
  } catch (error) {
    throw new ForkdError('stream_cut', 'The stream ended inside a line: the connection was lost.', { cause: error });
  }
}
