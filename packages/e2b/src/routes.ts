import { ApiError } from '@forkd/api';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { AccessTokens } from './access-tokens.ts';
import { createRoutes } from './control/create.ts';
import { sandboxRoutes } from './control/sandboxes.ts';
import { snapshotRoutes } from './control/snapshots.ts';
import { unsupportedRoutes } from './control/unsupported.ts';
import { STREAM_MEDIA_TYPE } from './envd/connect.ts';
import { fileRoutes } from './envd/files.ts';
import { filesystemRoutes } from './envd/filesystem.ts';
import { processRoutes } from './envd/process.ts';
import { wantAccess } from './envd/route.ts';
import { Watchers } from './envd/watchers.ts';
import { ConnectError, E2bError, isGone, SandboxGoneError, toConnectError, toE2bError } from './errors.ts';
import { GuestMemories } from './guest/memory.ts';
import { interpreterRoutes } from './interpreter/routes.ts';
import { Turns } from './interpreter/turns.ts';
import type { Lent, Parts } from './parts.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The JSON body may be as long as the input of a command. */
    takesLargeJson?: true;
  }
}

const RPC_PATH = /^\/(?:process\.Process|filesystem\.Filesystem)\//;

/** Adds the routes of E2B: its control plane, and the services of its guests. One port serves both, since no paths collide. */
export function e2bRoutes(app: FastifyInstance, lent: Lent): void {
  const parts: Parts = {
    ...lent,
    access: new AccessTokens(lent.secret),
    memories: new GuestMemories(lent.operations),
    watchers: new Watchers(),
    turns: new Turns(),
  };
  app.addHook('onClose', () => parts.watchers.close());
  app.setNotFoundHandler(({ method, url }) => {
    throw new E2bError(404, `E2B's wire has no route ${method} ${url.split('?', 1)[0]} here.`);
  });
  app.register(async (control) => {
    wantKey(control, parts);
    createRoutes(control, parts);
    sandboxRoutes(control, parts);
    snapshotRoutes(control, parts);
    unsupportedRoutes(control);
  });
  app.register(async (guest) => {
    wantAccess(guest, parts);
    guest.addContentTypeParser(STREAM_MEDIA_TYPE, (_request, payload, done) => done(null, payload));
    processRoutes(guest, parts);
    filesystemRoutes(guest, parts);
    interpreterRoutes(guest, parts);
    guest.register(async (raw) => {
      raw.removeAllContentTypeParsers();
      raw.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
      fileRoutes(raw, parts);
    });
  });
}

/** The key is a token of the controller. */
function wantKey(app: FastifyInstance, parts: Parts): void {
  app.addHook('onRequest', async (request) => {
    const key = request.headers['x-api-key'];
    await parts.checkKey(request, typeof key === 'string' ? key : undefined);
  });
}

/** Errors have one shape for the services of guests, and another for all other routes. */
export function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  if (reply.sent || reply.raw.headersSent) return;
  const failure = failureOf(error, request);
  if (failure.status >= 500 && failure.status !== 501 && !(failure instanceof SandboxGoneError)) {
    request.log.warn({ err: error }, `${request.method} of E2B's wire failed`);
  }
  if (failure.status === 413 || failure.status === 408) reply.header('connection', 'close');
  // The Python SDK would repeat a request that a full host refuses.
  if (error instanceof ApiError && failure.status === 503 && error.code !== 'busy')
    reply.header('should-retry', 'false');
  reply.code(failure.status).type('application/json').send(failure.toBody());
}

function failureOf(error: unknown, request: FastifyRequest): E2bError | ConnectError {
  const { sandboxId } = request;
  if (sandboxId && isGone(error)) return new SandboxGoneError(sandboxId);
  if (error instanceof SandboxGoneError) return error;
  const isRpc = RPC_PATH.test(request.url);
  const failure = knownError(error) ?? fromFramework(error);
  if (!isRpc) return failure instanceof ApiError ? toE2bError(failure) : asE2b(failure);
  if (failure instanceof ConnectError) return failure;
  return failure instanceof ApiError ? toConnectError(failure) : new ConnectError(codeOf(failure), failure.message);
}

/** The error that a caller is to see. What is wrong with an upload may have become the cause of another error on its way. */
function knownError(error: unknown): ApiError | E2bError | ConnectError | null {
  const inner = error instanceof Error && error.cause !== undefined ? knownError(error.cause) : null;
  if (inner instanceof E2bError) return inner;
  const isKnown = error instanceof ApiError || error instanceof E2bError || error instanceof ConnectError;
  return isKnown ? error : null;
}

function asE2b(failure: E2bError | ConnectError): E2bError {
  return failure instanceof E2bError ? failure : new E2bError(failure.status, failure.message);
}

function codeOf({ status }: E2bError): ConnectError['code'] {
  if (status === 401) return 'unauthenticated';
  if (status === 404) return 'unimplemented';
  return status < 500 ? 'invalid_argument' : 'internal';
}

/** A request that Fastify refuses by itself, or a fault of forkd, whose message stays in the log. */
function fromFramework(error: unknown): E2bError {
  const { statusCode = 500, message } = error as FastifyError;
  if (statusCode < 500) return new E2bError(statusCode, message);
  return new E2bError(500, 'Something went wrong inside the controller.');
}
