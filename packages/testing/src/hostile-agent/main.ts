/** `node main.js SOCKET NAME`: a malicious guest agent. NAME is a lie of `lies.ts` or a flood of `floods.ts`. */
import http2 from 'node:http2';
import { serveChannel } from './channel.ts';
import { flood } from './floods.ts';
import { honest, lies } from './lies.ts';

const [, , path = '', name = 'honest'] = process.argv;
const lie = lies[name] ?? {};
const server = http2.createServer({ settings: { initialWindowSize: 1 << 20 } });
server.on('sessionError', () => undefined);
server.on('stream', (stream, headers) => {
  stream.on('error', () => undefined);
  // A caller with a short deadline may have given up before the request arrived.
  if (stream.destroyed) return;
  const route = `${headers[':method']} ${String(headers[':path']).split('?')[0]}`;
  const answer = lie[route] ?? lie['*'] ?? honest[route];
  if (answer !== undefined) {
    Promise.resolve(answer(stream)).catch((error: unknown) => stream.destroy(error as Error));
    return;
  }
  stream.respond({ ':status': 204 });
  stream.end();
});
serveChannel(path, (channel) => {
  server.emit('connection', channel);
  flood(name, channel);
});
