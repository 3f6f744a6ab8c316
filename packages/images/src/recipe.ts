import type { Image } from '@forkd/api';

/** A root file system that forkd builds itself. */
export type Recipe = DebianRecipe | BusyboxRecipe;

export interface DebianRecipe {
  readonly base: 'debian';
  readonly packages: readonly string[];
  readonly config: Image;
  /** A user with a home who may become root without a password. */
  readonly user?: string;
}

export interface BusyboxRecipe {
  readonly base: 'busybox';
  readonly config: Image;
}
