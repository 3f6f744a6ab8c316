export { type ControllerOptions, type Found, TestController, until } from './controller.ts';
export { DISK_TEMPLATE, DiskWriter } from './disk-writer.ts';
export { type Common, compare, drawMore, type DrawOptions, notesOf, startDraws } from './draws.ts';
export { freePort } from './free-port.ts';
export { availableMib, mappingsOf, mapsLayers, protectedPages } from './host-memory.ts';
export { HostileAgent } from './hostile-agent.ts';
export { Internet } from './internet.ts';
export { floods } from './hostile-agent/floods.ts';
export { lies } from './hostile-agent/lies.ts';
export { type BootOptions, type Guest, Lab, type LabOptions, outputOf, type Point, sh } from './lab.ts';
export { MixedRun, randomOf, restart } from './mixed-run.ts';
export { OwnRoot } from './own-root.ts';
export { BUILT, REPO, requireBuilt, TEST_CACHE } from './paths.ts';
export { checkPayload, PayloadConsole, payloadFiles, type PayloadOptions, whyNoKvmDevice } from './payload.ts';
export { PayloadLab, type PayloadLabOptions } from './payload-lab.ts';
export {
  asUser,
  fieldsOf,
  insideOf,
  killIfThere,
  limitsOf,
  namespaceOf,
  openFilesOf,
  statusOf,
  userOf,
} from './process.ts';
export { installedStorm, type RemoteStorm } from './remote-storm.ts';
export { type Asked, type DescribedOperation, type Head, ReplyChecker } from './reply-checker.ts';
export { FirecrackerStandIn, whyNoGuest } from './stand-in.ts';
export { installStorm, nextStormLine, startStorm, STORM_PROGRAM, type StormLine, wholeLine } from './storm.ts';
export { type ImageDescriptor, ImageLayout, oneImage, tarOf, type TarMember } from './oci-image.ts';
export { codeOf, forkOne, makeTemplate, shell } from './template.ts';
