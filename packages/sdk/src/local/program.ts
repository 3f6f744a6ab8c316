import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { ForkdError } from '../errors.ts';

const PACKAGE = '@forkd/controller';

export type Program = { file: string; args: string[] };

/**
 * How the controller is started: FORKD_CONTROLLER_BIN, or the bin entry of the package beside this one.
 * It is looked up when it is needed and is no dependency: an SDK that talks to another host has none.
 */
export function controllerProgram(env: NodeJS.ProcessEnv = process.env): Program {
  const named = env['FORKD_CONTROLLER_BIN'];
  const main = named ? path.resolve(named) : findPackageBin();
  if (main === undefined || !existsSync(main)) {
    throw new ForkdError('controller_missing', `no controller program was found${main ? ` at ${main}` : ''}`, {
      hint: `install ${PACKAGE} beside this package, or set FORKD_CONTROLLER_BIN`,
    });
  }
  return /\.[cm]?js$/.test(main) ? { file: process.execPath, args: [main] } : { file: main, args: [] };
}

function findPackageBin(): string | undefined {
  // The directories that Node itself would look in, read directly: `exports` does not concern a program that is only run.
  for (const directory of createRequire(import.meta.url).resolve.paths(PACKAGE) ?? []) {
    const manifest = path.join(directory, PACKAGE, 'package.json');
    if (!existsSync(manifest)) continue;
    const { bin } = JSON.parse(readFileSync(manifest, 'utf8')) as { bin?: string | Record<string, string> };
    const entry = typeof bin === 'string' ? bin : bin?.['forkd-controller'];
    if (entry !== undefined) return path.join(path.dirname(manifest), entry);
  }
  return undefined;
}
