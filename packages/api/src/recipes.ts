/** Names of the built-in recipes for root file systems. */
export const recipeNames = ['python', 'base', 'code-interpreter', 'debian', 'busybox'] as const;
export type RecipeName = (typeof recipeNames)[number];

/** Folders at the top level of a root file system, each of which tells it from another directory. */
const ROOT_FOLDERS = ['bin', 'usr', 'sbin', 'lib'];
/** The file that tells an OCI image layout. */
const LAYOUT_FILE = 'oci-layout';

/** True if a directory with these names can be a root file system. */
export function holdsRoot(names: readonly string[]): boolean {
  return ROOT_FOLDERS.some((name) => names.includes(name));
}

/** True if a directory with these names can be meant by its name alone, even if that is also a recipe's. */
export function holdsRootOrImage(names: readonly string[]): boolean {
  return names.includes(LAYOUT_FILE) || holdsRoot(names);
}
