// Makes the files of the Python SDK that are not written by hand:  node scripts/python-sdk.mjs
//   models.py      the types of requests and replies, from docs/reference/openapi.json
//   _constants.py  the version, limits, and the status of each error code, from what `tsc -b` has built of packages/api
//   _sync/         the synchronous client, from `_async/`
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errorRegistry, limits } from '../packages/api/dist/constants.js';
import { pythonModels } from './lib/python-models.mjs';
import { synchronous } from './lib/python-sync.mjs';
import { repoRoot } from './lib/terminal.mjs';

const PACKAGE = join(repoRoot, 'python/src/forkd');
/** Files of `_sync` that are written by hand. */
const TWINS = ['platform.py'];

const { version } = JSON.parse(readFileSync(join(repoRoot, 'package.json'), 'utf8'));
const document = JSON.parse(readFileSync(join(repoRoot, 'docs/reference/openapi.json'), 'utf8'));
writeFileSync(join(PACKAGE, 'models.py'), pythonModels(document));
writeFileSync(join(PACKAGE, '_constants.py'), constants());
for (const name of readdirSync(join(PACKAGE, '_async'))) {
  if (!name.endsWith('.py') || TWINS.includes(name)) continue;
  writeFileSync(join(PACKAGE, '_sync', name), synchronous(readFileSync(join(PACKAGE, '_async', name), 'utf8')));
}

function constants() {
  const status = Object.entries(errorRegistry).map(([code, entry]) => `    "${code}": ${entry.status},`);
  return `"""Made by scripts/python-sdk.mjs from packages/api. Not to be edited."""

VERSION = "${version}"

COLLECTED_OUTPUT_BYTES_MAX = ${limits.collectedOutputBytesMax}
EVAL_TIMEOUT_SECS_DEFAULT = ${limits.evalTimeoutSecsDefault}
EXEC_TIMEOUT_SECS_DEFAULT = ${limits.execTimeoutSecsDefault}
IDLE_EXIT_SECS_DEFAULT = ${limits.idleExitSecsDefault}
NDJSON_LINE_BYTES_MAX = ${limits.ndjsonLineBytesMax}

ERROR_STATUS: dict[str, int] = {
${status.join('\n')}
}
"""The HTTP status of each error code."""
`;
}
