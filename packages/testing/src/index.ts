export { FirecrackerStandIn, whyNoGuest } from './stand-in.ts';
export { installedStorm, type RemoteStorm } from './storm.ts';
export { type Found, TestController, until } from './controller.ts';
export { forkOne, makeTemplate, shell } from './template.ts';
export { type Asked, type Head, type DescribedOperation, ReplyChecker } from './reply-checker.ts';
