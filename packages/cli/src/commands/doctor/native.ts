import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { command, type Fix } from './row.ts';

/** A built file of this project, the variable that names another, and what builds it where it is this checkout's. */
export type NativeProgram = { file: string; variable: string; fix: Fix | null };

const WORKSPACE = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../../../..');
const MANIFEST = path.join(WORKSPACE, 'Cargo.toml');
const GUEST_TARGET = 'x86_64-unknown-linux-gnu';
const CARGO_BUILD = ['cargo', 'build', '--release', '--locked', '--manifest-path', MANIFEST] as const;
/** PID 1 of a guest is linked statically, and built apart from what has other flags. */
const AGENT_BUILD = command(
  'env',
  'RUSTFLAGS=-C target-feature=+crt-static',
  'CARGO_PROFILE_RELEASE_STRIP=debuginfo',
  ...CARGO_BUILD,
  '-p',
  'forkd-agent',
  '--target',
  GUEST_TARGET,
  '--target-dir',
  path.join(WORKSPACE, 'target/guest'),
);

export function pagerProgram(env: NodeJS.ProcessEnv): NativeProgram {
  return locate(env, 'FORKD_PAGER_BIN', 'target/release/forkd-pager');
}

export function shimLibrary(env: NodeJS.ProcessEnv): NativeProgram {
  return locate(env, 'FORKD_SHIM', 'target/release/libforkd_shim.so');
}

/** All that the controller needs, where it looks for it too: what a variable names, else what the build has made. */
export function nativePrograms(env: NodeJS.ProcessEnv): NativeProgram[] {
  return [
    pagerProgram(env),
    shimLibrary(env),
    locate(env, 'FORKD_JAIL_BIN', 'target/release/forkd-jail'),
    locate(env, 'FORKD_AGENT_BIN', `target/guest/${GUEST_TARGET}/release/forkd-agent`, AGENT_BUILD),
  ];
}

function locate(
  env: NodeJS.ProcessEnv,
  variable: string,
  built: string,
  build: Fix = command(...CARGO_BUILD),
): NativeProgram {
  const named = env[variable];
  const isOurs = !named && existsSync(MANIFEST);
  return { file: path.resolve(WORKSPACE, named || built), variable, fix: isOurs ? build : null };
}
