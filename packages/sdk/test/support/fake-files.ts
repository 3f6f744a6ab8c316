import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import type http from 'node:http';
import path from 'node:path';
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
    await mkdir(path.dirname(file), { recursive: true });
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

/** Lists the directory `directory` of this host. */
export async function dirRoute(response: http.ServerResponse, directory: string): Promise<void> {
  const found = await stat(directory).catch(() => undefined);
  if (found === undefined) throw new ApiError('not_found_file', 'there is none');
  if (!found.isDirectory()) throw new ApiError('not_a_directory', 'it is none');
  const entries = await readdir(directory, { withFileTypes: true });
  const list = entries.map(async (entry) => {
    const { size, mode, mtimeMs } = await stat(path.join(directory, entry.name));
    const type = entry.isDirectory() ? 'dir' : entry.isSymbolicLink() ? 'symlink' : 'file';
    return {
      name: entry.name,
      type,
      size,
      mode: (mode & 0o7777).toString(8),
      mtime_unix: Math.floor(mtimeMs / 1000),
    };
  });
  send(response, 200, await Promise.all(list));
}
