import type { Command } from '../command.ts';
import { attach } from './attach.ts';
import { bench } from './bench/index.ts';
import { cp } from './cp.ts';
import { doctor } from './doctor/index.ts';
import { evalCommand } from './eval.ts';
import { exec } from './exec.ts';
import { fork } from './fork.ts';
import { fromImage } from './from-image.ts';
import { images } from './images.ts';
import { kill } from './kill.ts';
import { ls } from './ls.ts';
import { ping } from './ping.ts';
import { quickstart } from './quickstart/index.ts';
import { rmi } from './rmi.ts';
import { snapshot } from './snapshot.ts';
import { stop } from './stop.ts';
import { version } from './version.ts';
import { wpBench } from './wp-bench.ts';

/** Every verb, in the order in which help shows them: the way of a sandbox through its life, then the host. */
export const commands: readonly Command[] = [
  quickstart,
  fromImage,
  snapshot,
  fork,
  ls,
  exec,
  attach,
  evalCommand,
  ping,
  cp,
  kill,
  images,
  rmi,
  doctor,
  bench,
  wpBench,
  stop,
  version,
];
