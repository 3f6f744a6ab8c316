import { type Copy, copyIn } from './copy-in.ts';
import { ImageError } from './errors.ts';
import { installPython } from './pip.ts';
import type { RootSource, SourceContext } from './root-source.ts';

/** Packages and files that a user adds to a root: Debian packages first, then Python packages, then copies. */
export interface Additions {
  /** `NAME` or `apt:NAME` of a Debian package, `pip:NAME` of a Python package; each may have a version, as its tool writes it. */
  readonly packages: readonly string[];
  readonly copies: readonly Copy[];
}

interface SortedPackages {
  readonly apt: readonly string[];
  readonly pip: readonly string[];
}

const APT = /^[a-z0-9][a-z0-9+.-]*(=[A-Za-z0-9.+:~-]+)?$/;
const NAME = '[A-Za-z0-9][A-Za-z0-9._-]*';
const VERSION = '(===?|[<>!~]=|[<>])[A-Za-z0-9.*+!_-]+';
const PIP = new RegExp(`^${NAME}(\\[${NAME}(,${NAME})*\\])?(${VERSION}(,${VERSION})*)?$`);

/** Tells apart which program installs each package. Throws `bad_addition` for what is not a package. */
export function sortPackages(packages: readonly string[]): SortedPackages {
  const apt: string[] = [];
  const pip: string[] = [];
  for (const given of packages) {
    const [, kind = 'apt', name = ''] = /^(?:(apt|pip):)?(.*)$/s.exec(given) ?? [];
    if (!(kind === 'apt' ? APT : PIP).test(name)) {
      throw new ImageError('bad_addition', `${JSON.stringify(given)} is not a package.`, {
        hint: 'Write NAME or NAME=VERSION for a Debian package, pip:NAME or pip:NAME==VERSION for a Python package.',
      });
    }
    (kind === 'apt' ? apt : pip).push(name);
  }
  return { apt, pip };
}

/** The same source with Debian packages. */
export function withApt(source: RootSource, apt: readonly string[]): RootSource {
  if (apt.length === 0) return source;
  if (source.withPackages !== undefined) return source.withPackages(apt);
  throw new ImageError('bad_addition', `The ${source.description} takes no Debian packages, such as ${apt[0]}.`, {
    hint:
      'Only the recipes python and debian take them, since no program of another image is run on the host. ' +
      'Add them where the image is made. pip:NAME is a Python package.',
  });
}

interface AddContext extends SourceContext {
  readonly dir: string;
  readonly cacheDir: string;
  readonly description: string;
  readonly workdir: string;
}

/** Adds Python packages and copies to `tree`. */
export async function addTo(
  tree: string,
  pip: readonly string[],
  copies: readonly Copy[],
  context: AddContext,
): Promise<void> {
  if (pip.length > 0) await installPython(tree, pip, context);
  for (const copy of copies) {
    context.onProgress(`root: copying ${copy.from} to ${copy.to}`);
    await copyIn(tree, copy, context);
  }
}
