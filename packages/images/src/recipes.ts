import type { Recipe } from './recipe.ts';
import type { RootConfig } from './root-source.ts';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

function configFor(cmd: string[]): RootConfig {
  return { env: { PATH, LANG: 'C.UTF-8' }, workdir: '/', user: 'root', entrypoint: [], cmd };
}

/** What there is. Another one is another entry. */
export const recipes: Readonly<Record<string, Recipe>> = {
  /** Debian's smallest system with Python and NumPy, from the apt sources of this machine. */
  python: { base: 'debian', packages: ['python3-minimal', 'python3-numpy'], config: configFor(['python3']) },
  /** The same without any language. */
  debian: { base: 'debian', packages: [], config: configFor(['/bin/sh']) },
  /** One static program, made in a second without network: for tests and for a first look. */
  busybox: { base: 'busybox', config: configFor(['/bin/sh']) },
};

export function recipeNames(): string {
  return Object.keys(recipes).join(', ');
}
