// Shows errors: each says what failed, why, and what to do about it.
//   node examples/errors.mjs
import { ForkdError, NotFoundError, Sandbox, TimeoutError } from '@forkd/sdk';

try {
  await Sandbox.create('nothing-of-that-name', { requestTimeoutMs: 30_000 });
} catch (error) {
  if (error instanceof NotFoundError) console.log(`${error.code}: ${error.message} (${error.hint})`);
  else if (error instanceof TimeoutError) console.log('it took too long');
  else if (error instanceof ForkdError) console.log(error.code, error.status, error.requestId);
  else throw error;
}

const signal = AbortSignal.timeout(1_000);
const sandbox = await Sandbox.create('py');
const reason = await sandbox.commands.run('sleep 1000', { signal }).catch((error) => error);
console.log(reason === signal.reason); // an aborted call rejects with the signal's reason
await sandbox.kill();
