import {
  CommandEvent,
  CommandInfo,
  CommandList,
  CommandOutputQuery,
  CommandParams,
  CommandStdinQuery,
  SandboxParams,
  SignalRequest,
  StartCommandRequest,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { guestErrors } from '../openapi/errors.ts';
import { json, lines, nothing, operationsOf } from '../openapi/operation.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import { sendEvents, wantsEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

const base = '/v1/sandboxes/:id/commands';

export function commandRoutes(instance: FastifyInstance, { services, signals, log }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { guests } = services;
  const params = CommandParams;

  app.get(base, { schema: { params: SandboxParams }, config: described.list }, (request, reply) =>
    guests.list(request.params.id, signals.ofCall(reply)),
  );
  const start = { schema: { params: SandboxParams, body: StartCommandRequest }, config: described.start };
  app.post(base, start, async (request, reply) => {
    const { id } = request.params;
    if (request.body.follow !== true && !wantsEvents(request)) {
      return reply.code(201).send(await guests.start(id, request.body, signals.ofCall(reply)));
    }
    return sendEvents(reply, log, guests.startAndFollow(id, request.body, signals.ofStream(reply)));
  });
  app.get(`${base}/:cid`, { schema: { params }, config: described.get }, (request, reply) =>
    guests.get(request.params.id, request.params.cid, signals.ofCall(reply)),
  );
  app.delete(`${base}/:cid`, { schema: { params }, config: described.forget }, async (request, reply) => {
    await guests.forget(request.params.id, request.params.cid, signals.ofCall(reply));
    return reply.code(204).send();
  });

  const output = { schema: { params, querystring: CommandOutputQuery }, exposeHeadRoute: false };
  app.get(`${base}/:cid/output`, { ...output, config: described.output }, (request, reply) => {
    const { id, cid } = request.params;
    return sendEvents(reply, log, guests.output(id, cid, request.query, signals.ofStream(reply)));
  });
  const signal = { schema: { params, body: SignalRequest }, config: described.signal };
  app.post(`${base}/:cid/signal`, signal, async (request, reply) => {
    const { id, cid } = request.params;
    await guests.signal(id, cid, request.body.signal, signals.ofCall(reply));
    return reply.code(204).send();
  });

  withRawBodies(instance, (raw) => {
    const typed = raw.withTypeProvider<SchemaTypes>();
    const schema = { params, querystring: CommandStdinQuery };
    typed.post(`${base}/:cid/stdin`, { schema, config: described.stdin }, async (request, reply) => {
      const { id, cid } = request.params;
      const close = request.query.close ?? false;
      await guests.writeStdin(id, cid, rawBody(request), close, signals.ofCall(reply));
      return reply.code(204).send();
    });
  });
}

const operation = operationsOf('commands');
const commandErrors = [...guestErrors, 'not_found_command'] as const;
const startErrors = [...guestErrors, 'bad_path', 'not_found_file', 'not_a_directory', 'permission_denied'] as const;

const described = {
  list: operation('listCommands', 'The commands of a sandbox, those that have ended included.', {
    replies: { 200: json('They.', CommandList) },
    errors: guestErrors,
  }),
  start: operation('startCommand', 'Starts a command and leaves it running.', {
    description: 'With `follow`, or the header `Accept: application/x-ndjson`, the reply is what it prints.',
    replies: {
      200: lines('What it prints, to its end. It goes on when the reader leaves.', CommandEvent),
      201: json('It runs.', CommandInfo),
    },
    errors: startErrors,
  }),
  get: operation('getCommand', 'A command of a sandbox.', {
    replies: { 200: json('The command.', CommandInfo) },
    errors: commandErrors,
  }),
  forget: operation('deleteCommand', 'Ends a command if it runs, and forgets its output.', {
    replies: { 204: nothing('It is forgotten.') },
    errors: commandErrors,
  }),
  output: operation('commandOutput', 'What a command has printed from an offset on, and with `follow` what it will.', {
    replies: { 200: lines('Its output.', CommandEvent) },
    errors: commandErrors,
  }),
  signal: operation('signalCommand', 'Sends a signal to a command.', {
    replies: { 204: nothing('It is sent.') },
    errors: [...commandErrors, 'command_ended'],
  }),
  stdin: operation('writeCommandStdin', 'Writes to the standard input of a command that was started with `stdin`.', {
    rawBody: 'The bytes, of any media type and length.',
    replies: { 204: nothing('The command’s pipe has taken them.') },
    errors: [...commandErrors, 'command_ended'],
  }),
};
