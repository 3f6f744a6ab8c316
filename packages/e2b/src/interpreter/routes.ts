import { Readable } from 'node:stream';
import { ApiError } from '@forkd/api';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { Type, type TSchema } from 'typebox';
import { bodyOf } from '../control/read.ts';
import { guestCall } from '../envd/route.ts';
import type { Parts } from '../parts.ts';
import {
  assertLanguage,
  contextsOf,
  describeContext,
  endContext,
  findContext,
  newContext,
  restartContext,
  standardContext,
} from './contexts.ts';
import { execute } from './execute.ts';

const omittable = <Schema extends TSchema>(schema: Schema) => Type.Optional(Type.Union([schema, Type.Null()]));
const Text = Type.String();
const readExecute = bodyOf(
  Type.Object({
    code: Text,
    context_id: omittable(Text),
    language: omittable(Text),
    env_vars: omittable(Type.Record(Text, Text)),
  }),
);
const readContext = bodyOf(Type.Object({ language: omittable(Text), cwd: omittable(Text) }));

interface Params {
  Params: { context: string };
}

/** The service that runs code in the guest and keeps its state. */
export function interpreterRoutes(app: FastifyInstance, parts: Parts): void {
  const { signals } = parts;

  app.post('/execute', { config: { takesLargeJson: true } }, async (request, reply) => {
    const { code, context_id: contextId, language, env_vars: env } = readExecute(request.body);
    assertLanguage(language);
    const call = await guestCall(parts, request, signals.ofStream(reply));
    const context = contextId ? await findContext(parts, call, contextId) : await standardContext(parts, call);
    return sendLines(reply, execute(parts, call, context, { code, env: env ?? {} }));
  });
  app.get('/contexts', async (request, reply) => {
    const call = await guestCall(parts, request, signals.ofCall(reply));
    return (await contextsOf(parts, call)).map(describeContext);
  });
  app.post('/contexts', async (request, reply) => {
    const { language, cwd } = readContext(request.body);
    assertLanguage(language);
    const call = await guestCall(parts, request, signals.ofCall(reply));
    return reply.code(201).send(describeContext(await newContext(parts, call, cwd)));
  });
  app.delete<Params>('/contexts/:context', async (request, reply) => {
    const call = await guestCall(parts, request, signals.ofCall(reply));
    await endContext(parts, call, await findContext(parts, call, request.params.context));
    return reply.code(204).send();
  });
  app.post<Params>('/contexts/:context/restart', async (request, reply) => {
    const call = await guestCall(parts, request, signals.ofCall(reply));
    await restartContext(parts, call, await findContext(parts, call, request.params.context));
    return reply.code(204).send();
  });
}

/** Replies with one object per line. An error before the first has its own status, a later one is the last line. */
async function sendLines(reply: FastifyReply, events: AsyncGenerator<object>): Promise<FastifyReply> {
  const first = await events.next();
  async function* lines(): AsyncGenerator<string> {
    try {
      if (first.done !== true) yield lineOf(first.value);
      for await (const event of events) yield lineOf(event);
    } catch (error) {
      const value = error instanceof ApiError ? error.message : 'Something went wrong inside the controller.';
      yield lineOf({ type: 'error', name: 'SandboxError', value, traceback: '' });
    } finally {
      await events.return(undefined);
    }
  }
  return reply.type('application/x-ndjson').send(Readable.from(lines()));
}

function lineOf(event: object): string {
  return `${JSON.stringify(event)}\n`;
}
