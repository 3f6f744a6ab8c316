import { ApiError, type CommandInfo, type DirEntry } from '@forkd/api';
import { e2bRoutes, sendError, type Operations } from '@forkd/e2b';
import type { FastifyInstance } from 'fastify';
import { LargeReply } from '../large-reply.ts';
import { branch } from '../operations/branch.ts';
import {
  followOutput,
  forgetCommand,
  getCommand,
  listCommands,
  signalCommand,
  startAndFollow,
  startCommand,
  writeStdin,
} from '../operations/commands.ts';
import {
  listDir,
  makeDir,
  readFile,
  removeFile,
  renameFile,
  statFile,
  watchFiles,
  writeFile,
} from '../operations/files.ts';
import { fork, undoFork } from '../operations/fork.ts';
import type { Run } from '../operations/host.ts';
import { getSandbox, getStats } from '../operations/inspect.ts';
import { endSandbox, pause, resume, updateSandbox } from '../operations/lifecycle.ts';
import { getSnapshot, listSandboxes, listSnapshots } from '../operations/list.ts';
import { removeSnapshot } from '../operations/remove.ts';
import { resizeTerminal } from '../operations/terminal.ts';
import type { AppParts } from './app-parts.ts';
import { guardedApp } from './app.ts';
import { answerOnce } from './idempotency.ts';
import { whereOf } from './request-id.ts';

const NO_KEY_HINT = 'Set E2B_API_KEY to a token of the controller.';

/** The HTTP side of E2B's wire, which is translated to the same operations. */
export function buildE2bApp(parts: AppParts, secret: Uint8Array): FastifyInstance {
  const { run, signals, tokens, ports } = parts;
  const app = guardedApp(parts, sendError);
  e2bRoutes(app, {
    operations: operationsOf(run),
    signals,
    secret,
    portAuthority: () => ports.authority,
    answerOnce: (request, reply, work) => answerOnce(parts, request, reply, work),
    async checkKey(request, key) {
      if (tokens === null) return;
      const where = whereOf(request);
      if (key === undefined) {
        throw new ApiError('unauthorized', `${where}: the request has no X-API-KEY.`, { hint: NO_KEY_HINT });
      }
      request.tokenId = await tokens.check(where, `Bearer ${key}`);
    },
  });
  return app;
}

function operationsOf(run: Run): Operations {
  return {
    fork: (...args) => run(fork, ...args),
    undoFork: (...args) => run(undoFork, ...args),
    getSandbox: (...args) => run(getSandbox, ...args),
    listSandboxes: (...args) => run(listSandboxes, ...args),
    updateSandbox: (...args) => run(updateSandbox, ...args),
    pause: (...args) => run(pause, ...args),
    resume: (...args) => run(resume, ...args),
    endSandbox: (...args) => run(endSandbox, ...args),
    getStats: (...args) => run(getStats, ...args),
    branch: (...args) => run(branch, ...args),
    getSnapshot: (...args) => run(getSnapshot, ...args),
    listSnapshots: () => run(listSnapshots),
    removeSnapshot: (...args) => run(removeSnapshot, ...args),
    startCommand: (...args) => run(startCommand, ...args),
    forgetCommand: (...args) => run(forgetCommand, ...args),
    startAndFollow: (...args) => run(startAndFollow, ...args),
    followOutput: (...args) => run(followOutput, ...args),
    listCommands: async (...args) => wholeOf<CommandInfo>(await run(listCommands, ...args)),
    getCommand: (...args) => run(getCommand, ...args),
    writeStdin: (...args) => run(writeStdin, ...args),
    signalCommand: (...args) => run(signalCommand, ...args),
    resizeTerminal: (...args) => run(resizeTerminal, ...args),
    readFile: (...args) => run(readFile, ...args),
    writeFile: (...args) => run(writeFile, ...args),
    statFile: (...args) => run(statFile, ...args),
    listDir: async (...args) => wholeOf<DirEntry>(await run(listDir, ...args)),
    makeDir: (...args) => run(makeDir, ...args),
    renameFile: (...args) => run(renameFile, ...args),
    removeFile: (...args) => run(removeFile, ...args),
    watchFiles: (...args) => run(watchFiles, ...args),
  };
}

/** A listing that an operation has collected as JSON. Its memory counts as used until it has been read. */
async function wholeOf<Item>(answer: Item[] | LargeReply): Promise<Item[]> {
  if (!(answer instanceof LargeReply)) return answer;
  try {
    let text = '';
    for await (const piece of answer.json()) text += String(piece);
    return JSON.parse(text) as Item[];
  } finally {
    answer.release();
  }
}
