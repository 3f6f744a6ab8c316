import { type ClientRequest, type IncomingMessage, request as httpRequest, type ServerResponse } from 'node:http';
import { type Duplex, pipeline } from 'node:stream';
import { ApiError } from '@forkd/api';
import { messageOf } from '../../errors.ts';
import type { PortCall } from './calls.ts';
import { isUpgrade, type RawHeaders, replyHeaders, requestHeaders } from './headers.ts';

export interface ForwardBounds {
  /** All headers of the guest's reply. */
  headerBytesMax: number;
  /** The time from the request to the headers of the guest's reply. */
  portHeadersTimeoutMs: number;
}

interface Forward {
  call: PortCall;
  /** The request of the caller. Its body is passed on as it comes. */
  request: IncomingMessage;
  response: ServerResponse;
  /** Headers for each reply of the controller. One that the guest gives too is the guest's. */
  ownHeaders: Readonly<Record<string, unknown>>;
  /** A connection to the program in the guest, which this call ends. */
  guest: Duplex;
  scheme: 'http' | 'https';
  bounds: ForwardBounds;
  /** Fires when the call is to end. */
  signal: AbortSignal;
}

/**
 * Passes an HTTP request on to a guest, and its reply back, both as they come. Resolves when the reply has begun; what breaks off after
 * that breaks off for the caller too. Throws `port_unreachable` if the guest gives no reply that is HTTP.
 */
export async function forward(parts: Forward): Promise<void> {
  const { call, request, guest, bounds, signal, scheme } = parts;
  const asked = httpRequest({
    createConnection: () => guest,
    method: request.method,
    path: call.url,
    headers: requestHeaders(request, call, scheme),
    maxHeaderSize: bounds.headerBytesMax,
    setHost: false,
    signal,
  });
  try {
    await replied(asked, parts);
  } catch (error) {
    asked.destroy();
    guest.destroy();
    signal.throwIfAborted();
    const sentence = `Port ${call.port} of sandbox ${call.sandbox}: the reply of the guest cannot be used`;
    throw new ApiError('port_unreachable', `${sentence}: ${messageOf(error)}.`, {
      cause: error,
      hint: 'Check that the program on this port speaks HTTP/1.1.',
    });
  }
}

function replied(asked: ClientRequest, parts: Forward): Promise<void> {
  const { request, bounds } = parts;
  const lateMs = bounds.portHeadersTimeoutMs;
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`its headers took longer than ${lateMs / 1000} s`)), lateMs);
    const take = (begin: () => void) => {
      clearTimeout(late);
      try {
        begin();
        resolve();
      } catch (error) {
        reject(error);
      }
    };
    asked.once('response', (reply) => take(() => sendReply(parts, reply, asked)));
    asked.once('upgrade', (reply, guest, head) => take(() => join(parts, reply, guest, head)));
    // Errors after the reply has begun reach the caller through it.
    asked.on('error', reject);
    asked.once('close', () => {
      clearTimeout(late);
      // The guest reads no more, and its reply may still be on the way to the caller: the rest of the body is dropped.
      request.unpipe(asked).resume();
    });
    if (isUpgrade(request)) asked.end();
    else request.pipe(asked);
  });
}

function sendReply({ call, response, ownHeaders }: Forward, reply: IncomingMessage, asked: ClientRequest): void {
  const { statusCode = 502, statusMessage = '' } = reply;
  writeHead(response, statusCode, statusMessage, replyHeaders(reply, call), ownHeaders);
  pipeline(reply, response, () => asked.destroy());
}

/** Joins the two connections, once the guest has agreed to leave HTTP. */
function join(
  { call, request, response, ownHeaders, signal }: Forward,
  reply: IncomingMessage,
  guest: Duplex,
  head: Buffer,
): void {
  if (!isUpgrade(request)) {
    guest.destroy();
    throw new Error('it leaves HTTP, which the caller has not asked for');
  }
  const { socket } = request;
  const headers = [...replyHeaders(reply, call), 'connection', 'Upgrade', 'upgrade', 'websocket'];
  writeHead(response, 101, reply.statusMessage ?? '', headers, ownHeaders);
  if (head.length > 0) guest.unshift(head);
  // Either side may be silent for as long as both keep the connection.
  socket.setTimeout(0);
  signal.addEventListener('abort', () => socket.destroy(), { once: true });
  pipeline(socket, guest, () => undefined);
  pipeline(guest, socket, () => undefined);
}

function writeHead(
  response: ServerResponse,
  status: number,
  text: string,
  headers: RawHeaders,
  ownHeaders: Readonly<Record<string, unknown>>,
): void {
  const names = new Set(headers.filter((_, at) => at % 2 === 0).map((name) => name.toLowerCase()));
  const own = Object.entries(ownHeaders).filter(([name]) => !names.has(name));
  response.writeHead(status, text, [...headers, ...own.flatMap(([name, value]) => [name, String(value)])]);
  response.flushHeaders();
}
