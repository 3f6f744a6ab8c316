import { visibleText } from '@forkd/api/constants';

/** Makes the control characters of guest text visible for a terminal. Chunks may be split anywhere. */
export async function* visibleChunks(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const decoder = new TextDecoder();
  // Consoles end a line with \r\n. A trailing \r is held back until the next chunk shows if \n follows.
  let rest = '';
  for await (const chunk of chunks) {
    const text = rest + decoder.decode(chunk, { stream: true });
    const end = text.length - (/\r*$/.exec(text)?.[0].length ?? 0);
    rest = text.slice(end);
    yield shown(text.slice(0, end));
    if (rest.length > 64) {
      yield shown(rest);
      rest = '';
    }
  }
  yield shown(rest + decoder.decode());
}

function shown(text: string): Uint8Array {
  return Buffer.from(visibleText(text.replaceAll(/\r+\n/g, '\n')));
}
