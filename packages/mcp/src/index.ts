export { serveStdio, type ServeOptions } from './serve.ts';
export type { Limits } from './tool.ts';
