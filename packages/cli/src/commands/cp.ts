import { defineCommand, type Call } from '../command.ts';
import { copyIn, streamIn } from '../files/copy-in.ts';
import { copyOut, streamOut } from '../files/copy-out.ts';
import type { Copied, Guest } from '../files/copy.ts';
import { exitCodes, UsageError } from '../lib/errors.ts';
import { formatBytes } from '../output/text.ts';
import { resolveSandbox } from '../parse/resolve.ts';

/** A side of a copy: `-`, a path here, or `SANDBOX:path`. */
export type Place =
  | { kind: 'stdio' }
  | { kind: 'local'; path: string }
  | { kind: 'guest'; sandbox: string; path: string };

export const cp = defineCommand({
  name: 'cp',
  summary: 'copy files to or from a sandbox',
  description:
    'One side is SANDBOX:PATH. Directories are copied with their contents, as with cp -r: into a directory that exists they\ngo under their own name. Links are copied as the files or directories that they point to. A file that is overwritten keeps\nits owner, its mode and its links. What cannot be copied is named, the rest is copied, and the exit code is 1. `-` is stdin\nor stdout.',
  args: [
    { name: 'src', summary: 'source', completes: 'file' },
    { name: 'dst', summary: 'target', completes: 'file' },
  ],
  options: [],
  examples: [
    { line: 'forkd cp ./data sb-1f:/srv/', summary: 'a directory to the sandbox' },
    { line: 'forkd cp sb-1f:/etc/os-release .', summary: 'a file from it' },
    { line: 'forkd cp sb-1f:/var/log/syslog - | less', summary: 'a file from it to a pipe' },
  ],
  run,
});

async function run({ context, args }: Call<Record<string, unknown>>): Promise<number> {
  const source = parsePlace(args[0] ?? '');
  const target = parsePlace(args[1] ?? '');
  const client = await context.client();
  const open = async (sandbox: string): Promise<Guest> => {
    return { context, client, sandboxId: await resolveSandbox(client, sandbox, context) };
  };
  const copied = await copy(open, source, target);
  if (context.out.isJson && target.kind !== 'stdio') context.out.json(copied);
  else context.out.note(summaryOf(copied));
  return copied.failed === 0 ? exitCodes.ok : exitCodes.failure;
}

function summaryOf({ files, bytes, failed }: Copied): string {
  const copied = `${files} file${files === 1 ? '' : 's'}, ${formatBytes(bytes)}`;
  return failed === 0 ? copied : `${copied}; ${failed} could not be copied`;
}

async function copy(open: (sandbox: string) => Promise<Guest>, source: Place, target: Place): Promise<Copied> {
  if (source.kind === 'guest' && target.kind !== 'guest') {
    const guest = await open(source.sandbox);
    return target.kind === 'stdio' ? streamOut(guest, source.path) : copyOut(guest, source.path, target.path);
  }
  if (target.kind === 'guest' && source.kind !== 'guest') {
    const guest = await open(target.sandbox);
    return source.kind === 'stdio' ? streamIn(guest, target.path) : copyIn(guest, source.path, target.path);
  }
  throw new UsageError(
    'cp: Exactly one side must be SANDBOX:PATH.',
    'Write a local file with a colon in its name as ./NAME.',
  );
}

/** Parses one side of a copy. A colon marks a path in a sandbox, unless a slash comes before the colon. */
export function parsePlace(text: string): Place {
  if (text === '-') return { kind: 'stdio' };
  const colon = text.indexOf(':');
  if (colon <= 0 || text.slice(0, colon).includes('/')) return { kind: 'local', path: text };
  const path = text.slice(colon + 1);
  if (path === '') throw new UsageError(`cp: "${text}" has no path.`, 'Write it as SANDBOX:/path.');
  return { kind: 'guest', sandbox: text.slice(0, colon), path };
}
