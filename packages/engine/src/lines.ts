import type { Socket } from 'node:net';

/** The longest line that a peer may send, unless a caller knows better. */
const LINE_CHARS_MAX = 64 * 2 ** 20;

/**
 * Calls `handle` with each whole line that arrives. A peer whose line gets longer than `charsMax` is hung up on.
 * (`node:readline` would raise the socket's errors a second time.)
 */
export function onLine(socket: Socket, handle: (line: string) => void, charsMax = LINE_CHARS_MAX): void {
  let rest = '';
  socket.setEncoding('utf8').on('data', (text: string) => {
    const [first = '', ...more] = text.split('\n');
    // The part of a line that has arrived is not scanned again with each new chunk.
    const lines = [rest + first, ...more];
    rest = lines.pop() ?? '';
    for (const line of lines) handle(line);
    if (rest.length > charsMax) {
      rest = '';
      socket.destroy();
    }
  });
}
