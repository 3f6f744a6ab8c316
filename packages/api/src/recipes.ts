/** Names of the built-in recipes for root file systems. */
export const recipeNames = ['python', 'debian', 'busybox'] as const;
export type RecipeName = (typeof recipeNames)[number];
