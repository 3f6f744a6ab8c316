import type { FastifyReply, FastifyRequest } from 'fastify';
import { unixNow } from '../../clock.ts';
import { whereOf } from '../request-id.ts';
import type { Tokens } from '../tokens.ts';
import { ACCESS, cookieIn } from './access.ts';
import type { PortCall } from './calls.ts';
import { TOKEN_HEADER } from './headers.ts';
import type { PortKey } from './keys.ts';

interface Gate {
  tokens: Tokens | null;
  /** True if this listener asks for a token. */
  isAsked: boolean;
  key: PortKey;
  isTls: boolean;
}

/**
 * Lets a request for a port of a guest pass: with a token, or by a host name with a URL that was signed for this port. A browser that
 * opens such a URL gets a cookie and the URL without the signature, so that neither the page nor those it links to see it.
 */
export async function admitToPort(
  request: FastifyRequest,
  reply: FastifyReply,
  call: PortCall,
  gate: Gate,
): Promise<void> {
  const { tokens, isAsked, key, isTls } = gate;
  const { authorization, cookie, [TOKEN_HEADER]: inHeader } = request.headers;
  const shown = inHeader === undefined ? authorization : `Bearer ${String(inHeader)}`;
  const signature = call.signature ?? cookieIn(cookie);
  const expiresUnix = call.prefix === null && signature !== null ? key.check(call, signature) : null;
  if (isAsked && expiresUnix === null) {
    reply.header('www-authenticate', 'Bearer');
    request.tokenId = (await tokens?.check(whereOf(request), shown)) ?? null;
    reply.removeHeader('www-authenticate');
  }
  const isForkds =
    isAsked && expiresUnix === null ? shown === authorization : call.prefix !== null && inHeader === undefined;
  call.passesAuthorization = !isForkds && !(await tokens?.has(authorization));
  const isOpened = request.method === 'GET' && request.headers['sec-fetch-dest'] === 'document';
  if (expiresUnix === null || call.signature === null || !isOpened) return;
  const attributes = `Path=/; HttpOnly; SameSite=Lax; Max-Age=${expiresUnix - unixNow()}${isTls ? '; Secure' : ''}`;
  reply.header('set-cookie', `${ACCESS}=${call.signature}; ${attributes}`);
  reply.header('referrer-policy', 'no-referrer').header('cache-control', 'no-store');
  // A path that begins with two slashes would name another host.
  await reply.redirect(call.url.replace(/^\/(?=[/\\])/, '/./'), 303);
}
