import {
  CommandEvent,
  CommandInfo,
  CommandList,
  CommandOutputQuery,
  CommandParams,
  CommandStdinQuery,
  PtyQuery,
  PtySize,
  PtyTicket,
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
import { openTerminal, resizeTerminal } from '../../operations/terminal.ts';
import type { AppParts } from '../app-parts.ts';
import { guestErrors } from '../openapi/errors.ts';
import { json, lines, nothing, operationsOf } from '../openapi/operation.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import { pathOf } from '../request-id.ts';
import { sendEvents, sendLarge, wantsEvents } from '../streams.ts';
import { serveTerminal } from '../terminal-socket.ts';
import type { SchemaTypes } from '../validation.ts';

const BASE = '/v1/sandboxes/:id/commands';

export function commandRoutes(instance: FastifyInstance, parts: AppParts): void {
  const { run, signals, log } = parts;
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

  terminalRoutes(instance, parts);
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

function terminalRoutes(instance: FastifyInstance, { run, signals, tickets, upgrades }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const params = CommandParams;
  const attach = { schema: { params, querystring: PtyQuery }, exposeHeadRoute: false, config: described.attach };
  app.get(`${BASE}/:cid/pty`, attach, async (request, reply) => {
    const { id, cid } = request.params;
    const terminal = await run(openTerminal, id, cid, request.query.offset, signals.ofStream(reply));
    try {
      const socket = await upgrades.accept(request, reply);
      if (socket !== null) await serveTerminal(socket, terminal, request.query);
    } finally {
      terminal.release();
    }
  });
  const resize = { schema: { params, body: PtySize }, config: described.resize };
  app.put(`${BASE}/:cid/pty`, resize, async (request, reply) => {
    await run(resizeTerminal, request.params.id, request.params.cid, request.body, signals.ofCall(reply));
    return reply.code(204).send();
  });
  app.post(`${BASE}/:cid/pty/tickets`, { schema: { params }, config: described.ticket }, async (request, reply) => {
    // The command is looked for, so that a wrong id is told here, where a page can read it.
    await run(getCommand, request.params.id, request.params.cid, signals.ofCall(reply));
    const path = pathOf(request.url).replace(/\/tickets$/, '');
    return reply.code(201).send(tickets.issue(path, request.tokenId));
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
  attach: operation('attachPty', 'Connects a WebSocket to the terminal of a command.', {
    description:
      'The subprotocol is `forkd.pty.v1`. Binary messages are bytes: typed in one direction, for the screen in the other. Text ' +
      'messages are JSON. The guide to terminals describes them. A viewer that reads too slowly is told what it was spared, and gets ' +
      'the screen as it is then. Several viewers may be connected at the same time. Closing the connection leaves the command running.',
    replies: { 101: nothing('The connection is a WebSocket from here on.') },
    errors: [...commandErrors, 'not_a_terminal', 'too_many_viewers'],
  }),
  resize: operation('resizePty', 'Sets the size of the terminal of a command.', {
    description:
      'Programs in its foreground are told, so that they draw their screen again. The last size that was set counts.',
    replies: { 204: nothing('The terminal has this size.') },
    errors: [...commandErrors, 'not_a_terminal', 'command_ended'],
  }),
  ticket: operation('createPtyTicket', 'Makes a ticket for one WebSocket to the terminal of a command.', {
    description:
      'Web pages cannot send a token with a WebSocket. They name the ticket as a second subprotocol in its place, ' +
      '`forkd.ticket.` followed by the ticket.',
    replies: { 201: json('The ticket.', PtyTicket) },
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
