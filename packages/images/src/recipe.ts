import type { Image } from '@forkd/api';

/** A root file system that forkd builds itself. */
export type Recipe = DebianRecipe | BusyboxRecipe;

export interface DebianRecipe {
  readonly base: 'debian';
  readonly packages: readonly string[];
  readonly config: Image;
}

export interface BusyboxRecipe {
  readonly base: 'busybox';
  readonly config: Image;
}
