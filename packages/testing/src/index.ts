export { type Guest, outputOf, type Point, sh, TestHost } from './host.ts';
export { BUILT, REPO, requireBuilt, TEST_CACHE } from './paths.ts';
export { installedStorm, installStorm, nextStormLine, type RemoteStorm, startStorm, type StormLine } from './storm.ts';
export { type Found, TestController, until } from './controller.ts';
export { forkOne, makeTemplate, shell } from './template.ts';
