import type { Socket } from 'node:net';

/** Calls `handle` with each whole line that arrives. (`node:readline` would raise the socket's errors a second time.) */
export function onLine(socket: Socket, handle: (line: string) => void): void {
  let rest = '';
  socket.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) handle(line);
  });
}
