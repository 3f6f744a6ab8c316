import { DirEntry, FileStat } from '@forkd/api';
import { Type } from 'typebox';
import { defineTool } from '../tool.ts';
import { given, guestPath, listOf, sandboxId } from './fields.ts';

const FILE_BYTES_MAX = 256 * 1024;

const readFile = defineTool({
  name: 'read_file',
  title: 'Read a file',
  description:
    `Reads a file of a sandbox, at most ${FILE_BYTES_MAX} bytes: \`truncated\` says that there is more. What is not UTF-8 is ` +
    'returned in base64.',
  effect: 'read',
  input: Type.Object({ sandbox_id: sandboxId, path: guestPath }),
  output: Type.Object({
    content: Type.String(),
    encoding: Type.Union([Type.Literal('utf-8'), Type.Literal('base64')]),
    truncated: Type.Boolean(),
  }),
  async run({ sandbox_id, path }, { client, signal }) {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of client.readFileStream(sandbox_id, path, { signal })) {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes > FILE_BYTES_MAX) break;
    }
    const content = Buffer.concat(chunks).subarray(0, FILE_BYTES_MAX);
    return { ...textOrBase64(content, bytes > FILE_BYTES_MAX), truncated: bytes > FILE_BYTES_MAX };
  },
});

/** The last character of a text that was cut off may be incomplete. */
function textOrBase64(content: Uint8Array, isCut: boolean): { content: string; encoding: 'utf-8' | 'base64' } {
  try {
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    return { content: decoder.decode(content, { stream: isCut }), encoding: 'utf-8' };
  } catch {
    return { content: Buffer.from(content).toString('base64'), encoding: 'base64' };
  }
}

const writeFile = defineTool({
  name: 'write_file',
  title: 'Write a file',
  description: 'Writes a text file in a sandbox. Missing directories are made, and existing content is replaced.',
  effect: 'destroy',
  isIdempotent: true,
  input: Type.Object({
    sandbox_id: sandboxId,
    path: guestPath,
    content: Type.String(),
    mode: Type.Optional(Type.String({ description: 'Permission bits in octal. Default: 0644.' })),
  }),
  output: Type.Object({ path: Type.String(), bytes: Type.Integer() }),
  async run({ sandbox_id, path, content, mode }, { client, signal }) {
    await client.writeFile(sandbox_id, path, content, given({ mode }), { signal });
    return { path, bytes: Buffer.byteLength(content) };
  },
});

const listDir = defineTool({
  name: 'list_dir',
  title: 'List a directory',
  description: 'Lists a directory of a sandbox.',
  effect: 'read',
  input: Type.Object({ sandbox_id: sandboxId, path: guestPath }),
  output: listOf(DirEntry),
  run: ({ sandbox_id, path }, { client, signal }) => client.listDir(sandbox_id, path, { signal }),
});

const statFile = defineTool({
  name: 'stat_file',
  title: 'Describe a file',
  description: 'Returns type, size, mode, owner and time of what is at a path.',
  effect: 'read',
  input: Type.Object({ sandbox_id: sandboxId, path: guestPath }),
  output: FileStat,
  run: ({ sandbox_id, path }, { client, signal }) => client.statFile(sandbox_id, path, {}, { signal }),
});

const removeFile = defineTool({
  name: 'remove_file',
  title: 'Remove a file',
  description: 'Removes a file or a directory. One that is not empty needs `recursive`.',
  effect: 'destroy',
  input: Type.Object({
    sandbox_id: sandboxId,
    path: guestPath,
    recursive: Type.Optional(Type.Boolean({ description: 'Default: false.' })),
  }),
  output: Type.Object({ path: Type.String(), removed: Type.Literal(true) }),
  async run({ sandbox_id, path, recursive }, { client, signal }) {
    await client.deleteFile(sandbox_id, path, given({ recursive }), { signal });
    return { path, removed: true };
  },
});

export const fileTools = [readFile, writeFile, listDir, statFile, removeFile];
