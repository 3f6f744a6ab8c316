// HTTP over a unix socket with Node's own client. Bundles for browsers leave this module out.
import http from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { concatBytes, textOf } from './bytes.ts';
import type { FetchInit, PlatformFetch, ReplyLike } from './fetch-types.ts';
import { openNodeSocket } from './platform.ts';

/** Sends every request to this socket. Connections idle for `idleMsMax` are closed. Idle ones do not keep the process alive. */
export function openUnixFetch(socketPath: string, idleMsMax: number): PlatformFetch {
  const agent = new http.Agent({ keepAlive: true, timeout: idleMsMax });
  return {
    fetch: (url, init) => send(agent, socketPath, url, init),
    webSocket: (url, init) => openNodeSocket(url, init, socketPath),
    close: async () => agent.destroy(),
  };
}

/** Rejects as `fetch` does: with the signal's reason, or with a TypeError whose cause says why the connection failed. */
function send(agent: http.Agent, socketPath: string, url: string, init: FetchInit): Promise<ReplyLike> {
  const { method, headers, signal, body } = init;
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = http.request(url, { agent, socketPath, method, headers });
    const onAbort = () => request.destroy();
    signal.addEventListener('abort', onAbort, { once: true });
    const fail = (error: unknown) => {
      reject(signal.aborted ? signal.reason : new TypeError('fetch failed', { cause: error }));
    };
    request.once('response', (response) => resolve(replyOf(response, signal)));
    // `on`, not `once`: an error may follow another error or the reply, and an error event without a listener throws.
    request.on('error', fail);
    request.once('close', () => signal.removeEventListener('abort', onAbort));
    if (body === undefined || typeof body === 'string' || body instanceof Uint8Array) request.end(body);
    else {
      // The receiver may have something to say before the first byte of the body exists.
      request.flushHeaders();
      pipeline(Readable.from(body, { objectMode: false }), request).catch(fail);
    }
  });
}

function replyOf(response: http.IncomingMessage, signal: AbortSignal): ReplyLike {
  const body = bytesOf(response, signal);
  const whole = async () => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of body) chunks.push(chunk);
    return concatBytes(chunks);
  };
  return {
    status: response.statusCode ?? 0,
    headers: { get: (name) => headerOf(response.headers[name]) },
    body,
    text: async () => textOf(await whole()),
    arrayBuffer: async () => new Uint8Array(await whole()).buffer,
  };
}

/** Streams the body. The request ends if the reader stops early. */
async function* bytesOf(response: http.IncomingMessage, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  try {
    yield* response as AsyncIterable<Uint8Array>;
  } catch (error) {
    throw signal.aborted ? signal.reason : new TypeError('terminated', { cause: error });
  }
}

function headerOf(value: string | string[] | undefined): string | null {
  return (Array.isArray(value) ? value.join(', ') : value) ?? null;
}
