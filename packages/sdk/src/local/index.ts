export { ensureController, localClient, type EnsureOptions, type LocalController } from './ensure.ts';
export { defaultDataDir, localPaths, type LocalPaths } from './paths.ts';
export { controllerProgram } from './program.ts';
