import { defineCommand, type Call } from '../command.ts';
import type { Copied, Guest } from '../lib/copy.ts';
import { copyIn, streamIn } from '../lib/copy-in.ts';
import { copyOut, streamOut } from '../lib/copy-out.ts';
import { UsageError } from '../lib/errors.ts';
import { resolveSandbox } from '../lib/resolve.ts';
import { formatBytes } from '../lib/text.ts';

/** One side of a copy: `-`, a path here, or `SANDBOX:path`. */
export type Place =
  | { kind: 'stdio' }
  | { kind: 'local'; path: string }
  | { kind: 'guest'; sandbox: string; path: string };

export const cp = defineCommand({
  name: 'cp',
  summary: 'copy files between here and a sandbox',
  description:
    'One side is SANDBOX:PATH. Directories are copied with all that is in them; into a directory that exists already\nthey go under their own name, as with cp -r. Links are copied as what they point to. `-` is stdin or stdout.',
  args: [
    { name: 'src', summary: 'what to copy', completes: 'file' },
    { name: 'dst', summary: 'where to', completes: 'file' },
  ],
  options: [],
  examples: [
    { line: 'forkd cp ./data sb-1f:/srv/', summary: 'a directory into the sandbox' },
    { line: 'forkd cp sb-1f:/etc/os-release .', summary: 'a file out of it' },
    { line: 'forkd cp sb-1f:/var/log/syslog - | less', summary: 'to a pipe' },
  ],
  run,
});

async function run({ context, args }: Call<Record<string, unknown>>): Promise<void> {
  const source = parsePlace(args[0] ?? '');
  const target = parsePlace(args[1] ?? '');
  const client = await context.client();
  const open = async (sandbox: string): Promise<Guest> => {
    return { context, client, sandboxId: await resolveSandbox(client, sandbox, context) };
  };
  const copied = await copy(open, source, target);
  if (context.out.isJson && target.kind !== 'stdio') context.out.json(copied);
  else context.out.note(`${copied.files} file${copied.files === 1 ? '' : 's'}, ${formatBytes(copied.bytes)}`);
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
    'cp: one side, and only one, is SANDBOX:PATH',
    './NAME is a local file with a colon in its name',
  );
}

/** A colon makes it a place in a sandbox, unless a slash comes before it. */
export function parsePlace(text: string): Place {
  if (text === '-') return { kind: 'stdio' };
  const colon = text.indexOf(':');
  if (colon <= 0 || text.slice(0, colon).includes('/')) return { kind: 'local', path: text };
  const path = text.slice(colon + 1);
  if (path === '') throw new UsageError(`cp: "${text}" has no path`, 'write it as SANDBOX:/path');
  return { kind: 'guest', sandbox: text.slice(0, colon), path };
}
