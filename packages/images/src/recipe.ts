import type { RootConfig } from './root-source.ts';

/** A root file system that forkd builds itself. */
export type Recipe = DebianRecipe | BusyboxRecipe;

export interface DebianRecipe {
  readonly base: 'debian';
  readonly packages: readonly string[];
  readonly config: RootConfig;
}

export interface BusyboxRecipe {
  readonly base: 'busybox';
  readonly config: RootConfig;
}
