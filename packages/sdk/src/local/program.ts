import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join, resolve } from 'node:path';
import { ForkdError } from '../errors.ts';

const PACKAGE = '@forkd/controller';
const PROGRAM = 'forkd-controller';

export interface Program {
  file: string;
  args: string[];
}

/**
 * Finds the program of the controller: FORKD_CONTROLLER_BIN, the bin entry of the package beside this one, or
 * `forkd-controller` on the PATH.
 * The package is looked up on use and is no dependency: an SDK that talks to another host does not need it.
 */
export function controllerProgram(env: NodeJS.ProcessEnv = process.env): Program {
  const named = env['FORKD_CONTROLLER_BIN'];
  const main = named ? resolve(named) : (findPackageBin() ?? findOnPath(env));
  if (main === undefined || !existsSync(main)) {
    throw new ForkdError('controller_missing', `No controller program was found${main ? ` at ${main}` : ''}.`, {
      hint: 'Install forkd (in a checkout: `npm run build`), or set FORKD_CONTROLLER_BIN.',
    });
  }
  return /\.[cm]?js$/.test(main) ? { file: process.execPath, args: [main] } : { file: main, args: [] };
}

function findPackageBin(): string | undefined {
  // Read the directories that Node would search, without `import`: `exports` does not matter for a program that is only run.
  for (const directory of createRequire(import.meta.url).resolve.paths(PACKAGE) ?? []) {
    const manifest = join(directory, PACKAGE, 'package.json');
    if (!existsSync(manifest)) continue;
    const { bin } = JSON.parse(readFileSync(manifest, 'utf8')) as { bin?: string | Record<string, string> };
    const entry = typeof bin === 'string' ? bin : bin?.[PROGRAM];
    if (entry !== undefined) return join(dirname(manifest), entry);
  }
  return undefined;
}

function findOnPath(env: NodeJS.ProcessEnv): string | undefined {
  const directories = (env['PATH'] ?? '').split(delimiter).filter(Boolean);
  return directories.map((directory) => join(directory, PROGRAM)).find((file) => existsSync(file));
}
