import type { IncomingMessage } from 'node:http';
import { guestCookies } from './access.ts';
import type { PortCall } from './calls.ts';

/** Names and values in turn, as Node's `rawHeaders`. */
export type RawHeaders = string[];

/** Headers about one connection, not about the message. */
const hopByHop = [
  'connection',
  'expect',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
] as const;
/** `Connection` cannot take these away: the bounds of a message, and where it goes, are not up to its sender alone. */
const kept = new Set(['content-length', 'host']);
/** Headers by which a guest would speak for the host name of the controller, or for its neighbours. */
const notForGuests = ['alt-svc', 'clear-site-data', 'service-worker-allowed', 'strict-transport-security'] as const;
const noBody = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE']);

export const TOKEN_HEADER = 'x-forkd-token';

/** The headers that a guest gets. The right to call the controller is never among them. */
export function requestHeaders(request: IncomingMessage, call: PortCall, scheme: string): RawHeaders {
  const { headers, method = 'GET', socket } = request;
  const dropped = new Set<string>([...hopByHop, ...named(headers.connection), TOKEN_HEADER]);
  if (!call.passesAuthorization) dropped.add('authorization');
  // Below a path the program is called as on its own machine.
  if (call.prefix !== null) dropped.add('host');
  dropped.add('x-forwarded-for');
  dropped.add('cookie');
  const sent = without(request.rawHeaders, dropped);
  const cookies = guestCookies(headers.cookie ?? '');
  if (cookies !== '' && !named(headers.connection).includes('cookie')) sent.push('cookie', cookies);
  if (call.prefix !== null) sent.push('host', `localhost:${call.port}`);
  const isWebSocket = isUpgrade(request);
  if (isWebSocket) sent.push('connection', 'Upgrade', 'upgrade', 'websocket');
  else sent.push('connection', 'close');
  const encoding = headers['transfer-encoding'];
  if (encoding !== undefined && !isWebSocket) sent.push('transfer-encoding', encoding);
  else if (headers['content-length'] === undefined && !noBody.has(method)) sent.push('content-length', '0');
  const forwarded = [headers['x-forwarded-for'], socket.remoteAddress].flat().filter(Boolean).join(', ');
  if (forwarded !== '') sent.push('x-forwarded-for', forwarded);
  if (headers['x-forwarded-host'] === undefined) sent.push('x-forwarded-host', headers.host ?? '');
  if (headers['x-forwarded-proto'] === undefined) sent.push('x-forwarded-proto', scheme);
  if (call.prefix !== null) sent.push('x-forwarded-prefix', call.prefix);
  return sent;
}

/** The headers that a caller gets from a guest. */
export function replyHeaders(reply: IncomingMessage, call: PortCall): RawHeaders {
  const dropped = new Set<string>([...hopByHop, ...named(reply.headers.connection), ...notForGuests]);
  const sent = without(reply.rawHeaders, dropped).map((value, at, all) =>
    // A cookie is for the host name of this port, and for none above it.
    at % 2 === 1 && all[at - 1]?.toLowerCase() === 'set-cookie' ? value.replaceAll(/;\s*domain=[^;]*/gi, '') : value,
  );
  // Below a path of the API a page of the guest would be of the API's own origin, and could call all of it.
  if (call.prefix !== null) sent.push('content-security-policy', 'sandbox', 'x-content-type-options', 'nosniff');
  return sent;
}

export function isUpgrade(request: IncomingMessage): boolean {
  return (request as IncomingMessage & { upgrade?: boolean }).upgrade === true;
}

/** Names that `Connection` lists. */
function named(connection: string | undefined): string[] {
  const names = (connection ?? '').split(',').map((name) => name.trim().toLowerCase());
  return names.filter((name) => !kept.has(name));
}

function without(headers: RawHeaders, dropped: ReadonlySet<string>): RawHeaders {
  return headers.filter((_, at) => !dropped.has((headers[at - (at % 2)] ?? '').toLowerCase()));
}
