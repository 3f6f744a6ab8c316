export { type BootOptions, type Guest, Lab, type LabOptions, outputOf, type Point, sh } from './lab.ts';
export { BUILT, REPO, requireBuilt, TEST_CACHE } from './paths.ts';
export { installStorm, nextStormLine, startStorm, STORM_PROGRAM, type StormLine, wholeLine } from './storm.ts';
