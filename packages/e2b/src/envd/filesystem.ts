import { posix } from 'node:path';
import { ApiError, type DirEntry, type FileChangeEvent, type FileStat } from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import { Type } from 'typebox';
import { ConnectError } from '../errors.ts';
import type { Accounts } from '../guest/accounts.ts';
import { absolutePath } from '../guest/user.ts';
import { limits } from '../limits.ts';
import type { Parts } from '../parts.ts';
import { messageOf, readerOf, sendMessages } from './connect.ts';
import { guestCall, type GuestCall } from './route.ts';

const BASE = '/filesystem.Filesystem';
const KEEPALIVE = { keepalive: {} };

const Path = Type.String({ maxLength: 4096 });
const OfPath = readerOf(Type.Object({ path: Path }));
const ListRequest = readerOf(Type.Object({ path: Path, depth: Type.Optional(Type.Integer({ minimum: 0 })) }));
const MoveRequest = readerOf(Type.Object({ source: Path, destination: Path }));
const WatchRequest = readerOf(Type.Object({ path: Path, recursive: Type.Optional(Type.Boolean()) }));
const OfWatcher = readerOf(Type.Object({ watcherId: Type.String() }));

/** Files of the guest, as E2B's service for them. */
export function filesystemRoutes(app: FastifyInstance, parts: Parts): void {
  const { operations, signals, watchers } = parts;

  app.post(`${BASE}/Stat`, async (request, reply) => {
    const call = await guestCall(parts, request, signals.ofCall(reply));
    return { entry: await statOf(parts, call, absolutePath(OfPath.read(request.body).path, call.account)) };
  });
  app.post(`${BASE}/ListDir`, async (request, reply) => {
    const { path, depth = 1 } = ListRequest.read(request.body);
    const call = await guestCall(parts, request, signals.ofCall(reply));
    const root = absolutePath(path, call.account);
    return { entries: await listed(parts, call, root, Math.min(depth || 1, limits.depthMax)) };
  });
  app.post(`${BASE}/MakeDir`, async (request, reply) => {
    const call = await guestCall(parts, request, signals.ofCall(reply));
    const { id, account, signal } = call;
    const path = absolutePath(OfPath.read(request.body).path, account);
    const found = await operations.statFile(id, { path, follow: true }, signal).catch(unlessMissing);
    if (found?.type === 'dir') throw new ConnectError('already_exists', `${path} exists already.`);
    if (found !== undefined) throw new ConnectError('invalid_argument', `${path} exists, and is not a directory.`);
    await operations.makeDir(id, { path, user: account.name }, signal);
    return { entry: await statOf(parts, call, path) };
  });
  app.post(`${BASE}/Move`, async (request, reply) => {
    const { source, destination } = MoveRequest.read(request.body);
    const call = await guestCall(parts, request, signals.ofCall(reply));
    const { id, account, signal } = call;
    const [from, to] = [absolutePath(source, account), absolutePath(destination, account)];
    await operations.statFile(id, { path: from }, signal);
    await operations.makeDir(id, { path: posix.dirname(to), user: account.name }, signal);
    await operations.renameFile(id, { from, to }, signal);
    return { entry: await statOf(parts, call, to) };
  });
  app.post(`${BASE}/Remove`, async (request, reply) => {
    const { id, account, signal } = await guestCall(parts, request, signals.ofCall(reply));
    const path = absolutePath(OfPath.read(request.body).path, account);
    await operations.removeFile(id, path, true, signal).catch(unlessMissing);
    return {};
  });

  app.post(`${BASE}/WatchDir`, async (request, reply) => {
    const { path, recursive = false } = await messageOf(request, WatchRequest);
    const call = await guestCall(parts, request, signals.ofStream(reply));
    return sendMessages(reply, watched(parts, call, absolutePath(path, call.account), recursive), KEEPALIVE);
  });
  app.post(`${BASE}/CreateWatcher`, async (request, reply) => {
    const { path, recursive = false } = WatchRequest.read(request.body);
    const { id, account, signal } = await guestCall(parts, request, signals.ofCall(reply));
    const root = absolutePath(path, account);
    await assertDirectory(parts, id, root, signal);
    const open = (ended: AbortSignal) => operations.watchFiles(id, { path: root, recursive }, ended);
    return { watcherId: await watchers.add(id, open, (change) => eventsOf(root, change)) };
  });
  app.post(`${BASE}/GetWatcherEvents`, (request) => ({
    events: watchers.take(request.sandboxId, OfWatcher.read(request.body).watcherId),
  }));
  app.post(`${BASE}/RemoveWatcher`, (request) => {
    watchers.remove(request.sandboxId, OfWatcher.read(request.body).watcherId);
    return {};
  });
}

async function* watched(
  parts: Parts,
  { id, signal }: GuestCall,
  path: string,
  recursive: boolean,
): AsyncGenerator<object> {
  await assertDirectory(parts, id, path, signal);
  const changes = await parts.operations.watchFiles(id, { path, recursive }, signal);
  for await (const change of changes) {
    if (change.type === 'ready') yield { start: {} };
    else for (const event of eventsOf(path, change)) yield { filesystem: event };
  }
}

async function assertDirectory({ operations }: Parts, id: string, path: string, signal: AbortSignal): Promise<void> {
  const { type } = await operations.statFile(id, { path, follow: true }, signal);
  if (type !== 'dir') throw new ConnectError('invalid_argument', `${path} is not a directory.`);
}

/** A change as E2B's events, which name a file relative to the directory that is watched. */
function eventsOf(root: string, change: FileChangeEvent): object[] {
  const event = (type: string, path: string | undefined) => ({
    name: posix.relative(root, path ?? root),
    type: `EVENT_TYPE_${type}`,
  });
  switch (change.type) {
    case 'create':
      return [event('CREATE', change.path)];
    case 'modify':
      return [event('WRITE', change.path)];
    case 'remove':
      return [event('REMOVE', change.path)];
    case 'rename':
      return [event('RENAME', change.path), event('CREATE', change.to)];
    case 'overflow':
      throw new ConnectError('data_loss', 'Changes came faster than they were read, and some are lost.');
    case 'ready':
      return [];
  }
}

async function statOf({ operations }: Parts, { id, memory, signal }: GuestCall, path: string): Promise<object> {
  const [stat, accounts] = await Promise.all([operations.statFile(id, { path }, signal), memory.accounts(signal)]);
  return entryOf(path, stat, accounts);
}

/** The entries of a directory and, up to a depth, of those in it. */
async function listed(
  { operations }: Parts,
  { id, memory, signal }: GuestCall,
  root: string,
  depth: number,
): Promise<object[]> {
  const accounts = await memory.accounts(signal);
  const entries: object[] = [];
  const visit = async (path: string, left: number): Promise<void> => {
    for (const found of await operations.listDir(id, path, signal)) {
      if (found.type === 'other') continue;
      if (entries.length >= limits.entriesMax) {
        throw new ConnectError('resource_exhausted', `${root} has more than ${limits.entriesMax} entries.`);
      }
      const child = posix.join(path, found.name);
      entries.push(entryOf(child, found, accounts));
      if (found.type === 'dir' && left > 1) await visit(child, left - 1);
    }
  };
  await visit(root, depth);
  return entries;
}

type Facts = Omit<DirEntry, 'name' | 'target'> & Partial<Pick<FileStat, 'target'>>;

const types = {
  file: 'FILE_TYPE_FILE',
  dir: 'FILE_TYPE_DIRECTORY',
  symlink: 'FILE_TYPE_SYMLINK',
  other: 'FILE_TYPE_UNSPECIFIED',
};
const letters = { file: '-', dir: 'd', symlink: 'L', other: '?' };

export function entryOf(path: string, facts: Facts, accounts: Accounts): object {
  const { type, size, mtime_unix: mtimeUnix, uid = 0, gid = 0, target } = facts;
  const mode = parseInt(facts.mode, 8) & 0o777;
  return {
    name: posix.basename(path),
    type: types[type],
    path,
    size: String(size),
    mode,
    permissions: letters[type] + permissionsOf(mode),
    owner: accounts.userName(uid),
    group: accounts.groupName(gid),
    modifiedTime: new Date(mtimeUnix * 1000).toISOString(),
    ...(type === 'symlink' && { isSymlink: true, ...(target && { symlinkTarget: target }) }),
  };
}

/** The permissions in letters, such as `rw-r--r--`. */
function permissionsOf(mode: number): string {
  return Array.from('rwxrwxrwx', (letter, index) => ((mode >> (8 - index)) & 1 ? letter : '-')).join('');
}

function unlessMissing(error: unknown): undefined {
  if (error instanceof ApiError && error.code === 'not_found_file') return undefined;
  throw error;
}
