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
import {
  followOutput,
  forgetCommand,
  getCommand,
  listCommands,
  signalCommand,
  startAndFollow,
  startCommand,
  writeStdin,
} from '../../operations/commands.ts';
import type { AppParts } from '../app-parts.ts';
import { guestErrors } from '../openapi/errors.ts';
import { json, lines, nothing, operationsOf } from '../openapi/operation.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import { sendEvents, sendLarge, wantsEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

const BASE = '/v1/sandboxes/:id/commands';

export function commandRoutes(instance: FastifyInstance, { run, signals, log }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const params = CommandParams;

  app.get(BASE, { schema: { params: SandboxParams }, config: described.list }, async (request, reply) =>
    sendLarge(reply, await run(listCommands, request.params.id, signals.ofCall(reply))),
  );
  const start = { schema: { params: SandboxParams, body: StartCommandRequest }, config: described.start };
  app.post(BASE, start, async (request, reply) => {
    const { id } = request.params;
    if (request.body.follow !== true && !wantsEvents(request)) {
      return reply.code(201).send(await run(startCommand, id, request.body, signals.ofCall(reply)));
    }
    return sendEvents(reply, log, run(startAndFollow, id, request.body, signals.ofStream(reply)));
  });
  app.get(`${BASE}/:cid`, { schema: { params }, config: described.get }, (request, reply) =>
    run(getCommand, request.params.id, request.params.cid, signals.ofCall(reply)),
  );
  app.delete(`${BASE}/:cid`, { schema: { params }, config: described.forget }, async (request, reply) => {
    await run(forgetCommand, request.params.id, request.params.cid, signals.ofCall(reply));
    return reply.code(204).send();
  });

  const output = { schema: { params, querystring: CommandOutputQuery }, exposeHeadRoute: false };
  app.get(`${BASE}/:cid/output`, { ...output, config: described.output }, (request, reply) => {
    const { id, cid } = request.params;
    return sendEvents(reply, log, run(followOutput, id, cid, request.query, signals.ofStream(reply)));
  });
  const signal = { schema: { params, body: SignalRequest }, config: described.signal };
  app.post(`${BASE}/:cid/signal`, signal, async (request, reply) => {
    const { id, cid } = request.params;
    await run(signalCommand, id, cid, request.body.signal, signals.ofCall(reply));
    return reply.code(204).send();
  });

  withRawBodies(instance, (raw) => {
    const typed = raw.withTypeProvider<SchemaTypes>();
    const schema = { params, querystring: CommandStdinQuery };
    typed.post(`${BASE}/:cid/stdin`, { schema, config: described.stdin }, async (request, reply) => {
      const { id, cid } = request.params;
      const close = request.query.close ?? false;
      await run(writeStdin, id, cid, rawBody(request), close, signals.ofCall(reply));
      return reply.code(204).send();
    });
  });
}

const operation = operationsOf('commands');
const commandErrors = [...guestErrors, 'not_found_command'] as const;
const startErrors = [...guestErrors, 'bad_path', 'not_found_file', 'not_a_directory', 'permission_denied'] as const;

const described = {
  list: operation('listCommands', 'Lists the commands of a sandbox, including ended ones.', {
    replies: { 200: json('The commands.', CommandList) },
    errors: [...guestErrors, 'output_budget'],
  }),
  start: operation('startCommand', 'Starts a command and does not wait for its end.', {
    largeBody: true,
    description:
      'With `follow`, or with the header `Accept: application/x-ndjson`, the reply streams the output of the command.',
    replies: {
      200: lines(
        'The output, to the end of the command. If the reader disconnects, `on_disconnect` decides about the command.',
        CommandEvent,
      ),
      201: json('The command has started.', CommandInfo),
    },
    errors: startErrors,
  }),
  get: operation('getCommand', 'Gets a command of a sandbox.', {
    replies: { 200: json('The command.', CommandInfo) },
    errors: commandErrors,
  }),
  forget: operation('deleteCommand', 'Kills a command if it is running, and deletes its output.', {
    replies: { 204: nothing('The command and its output are gone.') },
    errors: commandErrors,
  }),
  output: operation('commandOutput', 'Reads the output of a command from an offset on, and with `follow` to its end.', {
    replies: { 200: lines('The output.', CommandEvent) },
    errors: commandErrors,
  }),
  signal: operation('signalCommand', 'Sends a signal to a command.', {
    replies: { 204: nothing('The signal was sent.') },
    errors: [...commandErrors, 'command_ended'],
  }),
  stdin: operation('writeCommandStdin', 'Writes to the standard input of a command that was started with `stdin`.', {
    rawBody: 'The bytes. Any media type and any length is accepted.',
    replies: { 204: nothing('The bytes were written to the pipe of the command.') },
    errors: [...commandErrors, 'command_ended'],
  }),
};
