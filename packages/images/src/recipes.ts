import type { Image, RecipeName } from '@forkd/api';
import type { Recipe } from './recipe.ts';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

function configFor(cmd: string[], user = 'root'): Image {
  const workdir = user === 'root' ? '/' : `/home/${user}`;
  return { env: { PATH, LANG: 'C.UTF-8' }, workdir, user, entrypoint: [], cmd };
}

/** Programs that were written for E2B's sandboxes expect these tools, and a user who may become root. */
const USER = 'user';
const BASE_PACKAGES = ['bash', 'ca-certificates', 'curl', 'git', 'procps', 'sudo'];

/** All recipes. To add a recipe, add its name in `@forkd/api`, and an entry. */
export const recipes: Readonly<Record<string, Recipe>> = {
  /** Debian's smallest system with Python and NumPy, from the apt sources of this machine. */
  python: { base: 'debian', packages: ['python3-minimal', 'python3-numpy'], config: configFor(['python3']) },
  /** A system to work in: a shell, git and curl, and the user `user`. */
  base: { base: 'debian', packages: BASE_PACKAGES, config: configFor(['/bin/bash'], USER), user: USER },
  /** The same with Python and what draws charts. */
  'code-interpreter': {
    base: 'debian',
    packages: [...BASE_PACKAGES, 'python3', 'python3-numpy', 'python3-matplotlib'],
    config: configFor(['python3'], USER),
    user: USER,
  },
  /** Debian's smallest system without any language. */
  debian: { base: 'debian', packages: [], config: configFor(['/bin/sh']) },
  /** A single static program, built in a second and without network: for tests and for a first look. */
  busybox: { base: 'busybox', config: configFor(['/bin/sh']) },
} satisfies Record<RecipeName, Recipe>;

export function recipeNames(): string {
  return Object.keys(recipes).join(', ');
}
