// Proves that another user of the host cannot reach the unix socket, wherever it is, and cannot put one of his in its place:
// a process of another user tries. The same process can once the socket's mode says so, so that it is the mode that counts.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { UsageError } from '../src/usage-error.ts';
import { HttpLab } from './http-support.ts';
import { scratch } from './support.ts';

const NOBODY = 65534;
const CONNECTING = `
require('node:net').connect(process.argv[1])
  .on('connect', function () { console.log('connected'); this.destroy(); })
  .on('error', (error) => console.log(error.code));
`;

/** What a process of user `uid` gets that connects to `path`. */
async function connectAs(uid: number, path: string): Promise<string> {
  const child = spawn(process.execPath, ['-e', CONNECTING, path], { uid, gid: uid, cwd: '/', stdio: 'pipe' });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  await once(child, 'close');
  return output.trim();
}

test('only its owner and root can connect', async (context) => {
  if (process.geteuid?.() !== 0) return context.skip('becoming another user needs root');
  const lab = await HttpLab.serve();
  await chmod(join(lab.socket, '..'), 0o755);
  expect(await connectAs(NOBODY, lab.socket)).toBe('EACCES');
  expect(await connectAs(0, lab.socket)).toBe('connected');
  await chmod(lab.socket, 0o666);
  expect(await connectAs(NOBODY, lab.socket)).toBe('connected');
});

test('a directory in which others could replace it is refused', async () => {
  const dir = await scratch();
  const lab = await HttpLab.serve();
  for (const mode of [0o777, 0o770]) {
    const open = join(dir, mode.toString(8));
    await mkdir(open);
    await chmod(open, mode);
    const listening = lab.servers.listen({ socket: join(open, 'c.sock'), bind: null });
    await expect(listening).rejects.toThrow(UsageError);
    await expect(lab.servers.listen({ socket: join(open, 'c.sock'), bind: null })).rejects.toThrow('others can write');
  }
  const sticky = join(dir, 'sticky');
  await mkdir(sticky);
  await chmod(sticky, 0o1777);
  await lab.servers.listen({ socket: join(sticky, 'c.sock'), bind: null });
});
