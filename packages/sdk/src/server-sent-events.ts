import { limits } from '@forkd/api/constants';
import { ForkdError } from './errors.ts';

/**
 * Parses the JSON `data` of server-sent events. Comments, which keep the connection alive, are skipped.
 * @throws ForkdError `bad_response` for data that is not JSON, or too long.
 */
export async function* parseServerSentEvents<Event>(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Event> {
  const text = new TextDecoder();
  let rest = '';
  let data = '';
  for await (const chunk of chunks) {
    const lines = (rest + text.decode(chunk, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line.startsWith('data:')) data += line.slice('data:'.length).trim();
      else if (line.trim() === '' && data !== '') {
        yield parse(data) as Event;
        data = '';
      }
    }
    if (rest.length + data.length > limits.ndjsonLineBytesMax) {
      throw new ForkdError('bad_response', `The stream has an event of more than ${limits.ndjsonLineBytesMax} bytes.`);
    }
  }
}

function parse(data: string): unknown {
  try {
    return JSON.parse(data) as unknown;
  } catch (error) {
    throw new ForkdError('bad_response', `The stream has an event that is not JSON: ${data.slice(0, 120)}`, {
      cause: error,
    });
  }
}
