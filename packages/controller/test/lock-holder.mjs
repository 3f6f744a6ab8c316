// Takes the lock of a data directory for `lock.test.ts`, says so, and keeps it until it is ended. It starts a program that
// outlives it, as a controller does.
import { spawn } from 'node:child_process';
import { lockDataDir } from '../dist/process/lock.js';

const [launcher, root] = process.argv.slice(2);
try {
  await lockDataDir(launcher, { root, run: root }, `${root}/c.sock`);
  const survivor = spawn('sleep', ['600'], { stdio: 'ignore', detached: true });
  process.send({ held: true, survivor: survivor.pid });
  setInterval(() => undefined, 1000);
} catch (error) {
  process.send({ held: false, name: error.name, message: error.message });
  process.disconnect();
}
