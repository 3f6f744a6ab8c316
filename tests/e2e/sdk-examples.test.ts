/**
 * The programs of the SDK's guide and README: each block of code there is a file of `examples/`, word for word, and each of those
 * runs as its first lines say, against a real controller with real guests, prints what it should, and leaves no sandbox behind.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { isForkdError, type ForkdClient } from '@forkd/sdk';
import { REPO, TestController } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openTcpPort, type TcpPort } from '../../packages/sdk/test/support/tcp-port.ts';

const DOCUMENTS = ['docs/guides/sdk.md', 'packages/sdk/README.md'];
const NOBODY = 'sb-0000000000';

type Probe = (client: ForkdClient) => Promise<unknown>;

/** The output of each example, and a request that tells whether the controller has the feature, where it may be missing. */
const examples: Record<string, { prints: RegExp; needs?: Probe }> = {
  'readme.mjs': { prints: /^42, exit code 0, 3 children\n$/ },
  'local.mjs': { prints: /^found the controller at unix:\S+: \d+ snapshots\n$/ },
  'run.mjs': { prints: /^out 7\nso far true\nfrom far away\n$/ },
  'eval.mjs': { prints: /^'\{"total": 332833500\}' ZeroDivisionError: division by zero\n$/ },
  'files.mjs': {
    prints: /^print\("hello"\)\n\nmain.py file 15\ndir\ncreate \/srv\/app\/logs\/today\ntrue\ntrue false\n$/,
  },
  'branch-and-fork.mjs': { prints: /^\[ '2', '11', '11' \]\ntrue false\n$/ },
  'errors.mjs': { prints: /^not_found_snapshot: .*nothing-of-that-name.* \(.*forkd images.*\)\ntrue\n$/ },
  'controller.mjs': { prints: /^4 0 true\ntrue 404\n2\n$/ },
  'pause.mjs': {
    prints: /^false 1\ntrue true\n$/,
    needs: (client) => client.updateSandbox(NOBODY, {}),
  },
  'observe.mjs': { prints: /^true true\n/, needs: (client) => client.sandboxStats(NOBODY) },
  'workspaces.mjs': { prints: /^suspended\n\['remember this'\]\n$/, needs: (client) => client.listWorkspaces() },
  'events.mjs': {
    prints: /(^|\n)sandbox\.ended sb-\S+\n$/,
    needs: (client) => client.events({}, { signal: AbortSignal.timeout(1_000) }).next(),
  },
  'snapshots.mjs': {
    prints: /^\[ 'py' \] true\n\[\]\ntrue\n$/,
    needs: (client) => client.pruneSnapshots({ dry_run: true }),
  },
};

let controller: TestController;
let port: TcpPort;
let created: string;

beforeAll(async () => {
  controller = await TestController.start();
  port = await openTcpPort(controller.socket);
  created = await run('create.mjs');
});

afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
  await port?.close();
});

test.each(DOCUMENTS)('%s shows the example files word for word', async (document) => {
  const text = await readFile(join(REPO, document), 'utf8');
  const blocks = [...text.matchAll(/(?:\[`examples\/(\S+)`\]\(\S+\)\n\n)?```(\w*)\n([\s\S]*?)```/g)];
  expect(blocks.length).toBeGreaterThan(0);
  for (const [, file = 'a block without a file', language, code] of blocks) {
    expect([file, language, code]).toEqual([file, 'js', await bodyOf(file)]);
  }
});

test('every example of the documents is run', async () => {
  const files = await readdir(join(REPO, 'examples'));
  const known = [...Object.keys(examples), 'create.mjs'];
  const text = (await Promise.all(DOCUMENTS.map((document) => readFile(join(REPO, document), 'utf8')))).join('');
  expect(files).toEqual(expect.arrayContaining(known));
  for (const file of known) expect(text).toContain(`[\`examples/${file}\`]`);
});

test('examples/create.mjs makes the snapshot', () => {
  expect(created).toMatch(/(^|\n)boot: .*\n(.*\n)*py is ready, booted in \d+ ms\n$/);
});

test.for(Object.entries(examples))('examples/%s prints what it should', async ([file, { prints, needs }], { skip }) => {
  const missing = await missingRoute(needs);
  if (missing !== undefined) skip(missing);
  expect(await run(file)).toMatch(prints);
  expect(await controller.client.listSandboxes()).toEqual([]);
});

async function run(file: string): Promise<string> {
  const { FORKD_SOCKET: _, FORKD_TOKEN: __, ...rest } = process.env;
  const env = { ...rest, FORKD_URL: port.url, FORKD_DATA_DIR: controller.dir };
  return (await promisify(execFile)(process.execPath, [join(REPO, 'examples', file)], { env })).stdout;
}

/** The file without the comment that it begins with. */
async function bodyOf(file: string): Promise<string> {
  return (await readFile(join(REPO, 'examples', file), 'utf8')).replace(/^(\/\/.*\n)+/, '');
}

/** Why the controller cannot do it, where it cannot. */
async function missingRoute(probe: Probe | undefined): Promise<string | undefined> {
  try {
    await probe?.(controller.client);
  } catch (error) {
    if (isForkdError(error, 'not_found')) return error.message;
  }
  return undefined;
}
