import { fileURLToPath } from 'node:url';

/** The folder of this package. Bundled or not, this module runs from a file one level below it. */
export const packageRoot = fileURLToPath(new URL('..', import.meta.url));
