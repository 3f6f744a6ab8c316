import type { Stats } from 'node:fs';
import { lstat, mkdir, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import type http from 'node:http';
import { dirname, join } from 'node:path';
import { ApiError } from '@forkd/api';
import { send, sendNothing } from './replies.ts';

/** Reads, writes or removes the file `file` of this host, which a guest calls `path`. */
export async function fileRoute(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  url: URL,
  file: string,
): Promise<void> {
  const missing = () => new ApiError('not_found_file', `there is no ${url.searchParams.get('path')}`);
  if (request.method === 'PUT') {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, Buffer.concat(chunks), {
      mode: Number.parseInt(url.searchParams.get('mode') ?? '0644', 8),
    });
    return sendNothing(response);
  }
  if (request.method === 'DELETE') {
    await stat(file).catch(() => Promise.reject(missing()));
    await rm(file, { recursive: true });
    return sendNothing(response);
  }
  const data = await readFile(file).catch(() => Promise.reject(missing()));
  response.writeHead(200, { 'content-type': 'application/octet-stream' });
  response.end(data);
}

/** Describes `file` of this host. */
export async function statRoute(response: http.ServerResponse, url: URL, file: string): Promise<void> {
  const look = url.searchParams.get('follow') === 'true' ? stat : lstat;
  const found = await look(file).catch(() => undefined);
  if (found === undefined) throw new ApiError('not_found_file', `there is no ${url.searchParams.get('path')}`);
  const target = await readlink(file).catch(() => null);
  send(response, 200, { ...factsOf(found), uid: found.uid, gid: found.gid, target });
}

function factsOf(found: Stats) {
  const type = found.isDirectory() ? 'dir' : found.isSymbolicLink() ? 'symlink' : found.isFile() ? 'file' : 'other';
  const mode = (found.mode & 0o7777).toString(8).padStart(4, '0');
  return { type, size: found.size, mode, mtime_unix: Math.floor(found.mtimeMs / 1000) };
}

/** Lists the directory `directory` of this host. */
export async function dirRoute(response: http.ServerResponse, directory: string): Promise<void> {
  const found = await stat(directory).catch(() => undefined);
  if (found === undefined) throw new ApiError('not_found_file', 'there is none');
  if (!found.isDirectory()) throw new ApiError('not_a_directory', 'it is none');
  const list = (await readdir(directory)).map(async (name) => ({
    name,
    ...factsOf(await lstat(join(directory, name))),
  }));
  send(response, 200, await Promise.all(list));
}
