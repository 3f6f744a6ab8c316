import {
  ApiError,
  type DirEntry,
  type FileChangeEvent,
  type FileQuery,
  type FileStat,
  type MakeDirQuery,
  type RenameFileRequest,
  type StatQuery,
  type WatchQuery,
} from '@forkd/api';
import type { Bytes, FileContents, GuestAgent } from '@forkd/guest';
import type * as guest from '@forkd/guest';
import { toApiError } from '../errors.ts';
import type { LargeReply } from '../large-reply.ts';
import { guestFailure } from '../state/guest-errors.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { waitForReason } from '../state/vm-end.ts';
import { listAs, openGuest, type GuestHost } from './guest-replies.ts';

export async function readFile(host: GuestHost, id: string, path: string, outer: AbortSignal): Promise<FileContents> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const file = await sandbox.guest.call((agent) => agent.readFile(path, { signal }), { signal, repeatable: true });
  return { ...file, data: dataOf(sandbox, file.data, signal) };
}

export async function writeFile(
  host: GuestHost,
  id: string,
  query: FileQuery,
  data: Bytes,
  outer: AbortSignal,
): Promise<void> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const options = { ...newFileOptions(query), signal };
  await sandbox.guest.call((agent) => agent.writeFile(query.path, data, options), { signal });
}

export async function statFile(
  host: GuestHost,
  id: string,
  { path, follow = false }: StatQuery,
  outer: AbortSignal,
): Promise<FileStat> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const call = (agent: GuestAgent) => agent.stat(path, { follow, signal });
  const { uid, gid, target = null, ...facts } = await sandbox.guest.call(call, { signal, repeatable: true });
  return { ...factsOf(facts), uid, gid, target };
}

export async function makeDir(host: GuestHost, id: string, query: MakeDirQuery, outer: AbortSignal): Promise<void> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const options = { ...newFileOptions(query), signal };
  await sandbox.guest.call((agent) => agent.makeDir(query.path, options), { signal, repeatable: true });
}

function newFileOptions({ mode, user }: Pick<FileQuery, 'mode' | 'user'>): guest.NewFileOptions {
  return { ...(mode !== undefined && { mode: parseInt(mode, 8) }), ...(user !== undefined && { user }) };
}

export async function renameFile(
  host: GuestHost,
  id: string,
  { from, to }: RenameFileRequest,
  outer: AbortSignal,
): Promise<void> {
  const { sandbox, signal } = openGuest(host, id, outer);
  await sandbox.guest.call((agent) => agent.rename(from, to, { signal }), { signal });
}

export async function removeFile(
  host: GuestHost,
  id: string,
  path: string,
  recursive: boolean,
  outer: AbortSignal,
): Promise<void> {
  const { sandbox, signal } = openGuest(host, id, outer);
  if (await sandbox.guest.call((agent) => agent.remove(path, { recursive, signal }), { signal })) return;
  throw new ApiError('not_found_file', `Sandbox ${id} has no file ${path}.`);
}

export async function listDir(
  host: GuestHost,
  id: string,
  path: string,
  outer: AbortSignal,
): Promise<DirEntry[] | LargeReply> {
  const { sandbox, signal } = openGuest(host, id, outer);
  return listAs(host, sandbox, signal, (agent, list, budget) =>
    agent.listDir(path, (entry) => list.add(entryOf(entry)), { signal, budget }),
  );
}

/** Watches a path. Rejects if that cannot begin; what happens once it has is in the events. */
export async function watchFiles(
  host: GuestHost,
  id: string,
  { path, recursive = false }: WatchQuery,
  outer: AbortSignal,
): Promise<AsyncGenerator<FileChangeEvent>> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const call = (agent: GuestAgent) => agent.watch(path, { recursive, signal });
  const changes = await sandbox.guest.call(call, { signal, repeatable: true });
  return eventsOf(sandbox, changes, signal);
}

async function* eventsOf(
  sandbox: Sandbox,
  changes: AsyncIterable<guest.FileChange>,
  signal: AbortSignal,
): AsyncGenerator<FileChangeEvent> {
  yield { type: 'ready' };
  try {
    yield* changes;
  } catch (error) {
    if (!signal.aborted) await waitForReason(signal);
    throw signal.aborted ? toApiError(signal.reason) : guestFailure(sandbox.id, error);
  }
}

async function* dataOf(
  sandbox: Sandbox,
  data: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  try {
    yield* data;
  } catch (error) {
    throw signal.aborted ? toApiError(signal.reason) : guestFailure(sandbox.id, error);
  }
}

function entryOf({ name, uid, gid, target, ...facts }: guest.DirectoryEntry): DirEntry {
  const owner = { ...(uid !== undefined && { uid }), ...(gid !== undefined && { gid }) };
  return { name, ...factsOf(facts), ...owner, ...(target !== undefined && { target }) };
}

function factsOf({ type, sizeBytes, mode, mtimeUnix }: guest.FileFacts): Omit<DirEntry, 'name'> {
  return { type, size: sizeBytes, mode: mode.toString(8).padStart(4, '0'), mtime_unix: mtimeUnix };
}
