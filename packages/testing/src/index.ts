export { type Guest, outputOf, type Point, sh, TestHost } from './host.ts';
export { BUILT, REPO, requireBuilt, TEST_CACHE } from './paths.ts';
export { installStorm, nextStormLine, startStorm, type StormLine } from './storm.ts';
