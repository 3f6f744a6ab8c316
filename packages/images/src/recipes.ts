import type { Image, RecipeName } from '@forkd/api';
import type { Recipe } from './recipe.ts';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

function configFor(cmd: string[]): Image {
  return { env: { PATH, LANG: 'C.UTF-8' }, workdir: '/', user: 'root', entrypoint: [], cmd };
}

/** All recipes. To add a recipe, add its name in `@forkd/api`, and an entry. */
export const recipes: Readonly<Record<string, Recipe>> = {
  /** Debian's smallest system with Python and NumPy, from the apt sources of this machine. */
  python: { base: 'debian', packages: ['python3-minimal', 'python3-numpy'], config: configFor(['python3']) },
  /** The same without any language. */
  debian: { base: 'debian', packages: [], config: configFor(['/bin/sh']) },
  /** A single static program, built in a second and without network: for tests and for a first look. */
  busybox: { base: 'busybox', config: configFor(['/bin/sh']) },
} satisfies Record<RecipeName, Recipe>;

export function recipeNames(): string {
  return Object.keys(recipes).join(', ');
}
