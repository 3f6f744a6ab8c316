import type { FastifyInstance, FastifyRequest } from 'fastify';
import { E2bError, SandboxGoneError } from '../errors.ts';
import type { Account } from '../guest/accounts.ts';
import type { GuestMemory } from '../guest/memory.ts';
import { accountFor, userNameOf } from '../guest/user.ts';
import type { Parts } from '../parts.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Id of the sandbox that a request to a guest is for. */
    sandboxId: string;
  }
}

/** A request to one sandbox, for one of its users. */
export interface GuestCall {
  id: string;
  memory: GuestMemory;
  account: Account;
  signal: AbortSignal;
}

export async function guestCall(
  { memories }: Parts,
  request: FastifyRequest,
  signal: AbortSignal,
  userName: string | undefined = userNameOf(request),
): Promise<GuestCall> {
  const { sandboxId: id } = request;
  const memory = memories.of(id);
  return { id, memory, account: await accountFor(memory, userName, signal), signal };
}

/** Finds the sandbox of each request to a guest, and refuses those without its access token. */
export function wantAccess(app: FastifyInstance, parts: Parts): void {
  app.decorateRequest('sandboxId', '');
  app.addHook('onRequest', async (request) => {
    const id = namedSandbox(request) ?? signedSandbox(parts, request);
    if (id === undefined) throw new E2bError(401, 'The request names no sandbox, and has no valid signature of one.');
    // Refused before it is known whether the sandbox exists, so that ids cannot be tried out.
    assertAccess(parts, request, id);
    request.sandboxId = id;
    // Throws if there is none, which the reply shows as a sandbox that is gone.
    if (parts.operations.getSandbox(id).state !== 'running') throw new SandboxGoneError(id);
  });
}

/** The sandbox as the header names it, or the host name `PORT-ID.DOMAIN`. */
function namedSandbox({ headers }: FastifyRequest): string | undefined {
  const header = headers['e2b-sandbox-id'];
  if (typeof header === 'string' && header !== '') return header;
  return /^\d{1,5}-(sb-[a-z0-9-]+)\./.exec(headers.host ?? '')?.[1];
}

/** The sandbox whose token signed the URL of a file. */
function signedSandbox(parts: Parts, request: FastifyRequest): string | undefined {
  const running = parts.operations.listSandboxes({ state: 'running' });
  return running.find(({ id }) => isSigned(parts, request, id))?.id;
}

function assertAccess(parts: Parts, request: FastifyRequest, id: string): void {
  const { 'x-access-token': access, 'e2b-traffic-access-token': traffic } = request.headers;
  if ([access, traffic].some((token) => typeof token === 'string' && parts.access.isOf(id, token))) return;
  if (isSigned(parts, request, id)) return;
  throw new E2bError(401, 'The request has neither the access token of the sandbox nor a valid signature.');
}

function isSigned({ access }: Parts, request: FastifyRequest, id: string): boolean {
  const [path] = request.url.split('?');
  if (path !== '/files') return false;
  const query = request.query as Record<string, unknown>;
  const text = (name: string) => (typeof query[name] === 'string' ? query[name] : undefined);
  const signature = text('signature');
  if (signature === undefined) return false;
  const expiration = text('signature_expiration');
  if (expiration !== undefined && !(Number(expiration) * 1000 >= Date.now())) return false;
  const operation = request.method === 'GET' ? 'read' : 'write';
  return access.hasSigned(id, {
    path: text('path') ?? '',
    operation,
    user: text('username') ?? '',
    expiration,
    signature,
  });
}
