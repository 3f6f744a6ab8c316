import { type ForkdClient, isForkdError } from '@forkd/sdk';

/** Makes the small template that most tests fork from: busybox and nothing else. */
export async function makeTemplate(client: ForkdClient, tag = 'base', memMib = 256): Promise<void> {
  await client.createSnapshot({ tag, source: 'recipe:busybox', mem_mib: memMib, boot_wait_secs: 60 });
}

/** Starts one sandbox and returns its id. */
export async function forkOne(client: ForkdClient, tag = 'base'): Promise<string> {
  const [sandbox] = await client.createSandboxes({ snapshot_tag: tag });
  if (!sandbox) throw new Error(`fork of ${tag}: the answer is empty`);
  return sandbox.id;
}

/** Runs a shell script in a sandbox and returns its output. Fails unless the script exits with 0. */
export async function shell(client: ForkdClient, id: string, script: string): Promise<string> {
  const { stdout, stderr, exit_code } = await client.exec(id, { args: ['sh', '-c', script] });
  if (exit_code !== 0) throw new Error(`"${script}" ended with ${exit_code}: ${stderr}`);
  return stdout.trim();
}

/** The code of the error with which a request fails, or `ok` if it succeeds. */
export async function codeOf(request: Promise<unknown>): Promise<string> {
  return request.then(
    () => 'ok',
    (error: unknown) => (isForkdError(error) ? error.code : String(error)),
  );
}
