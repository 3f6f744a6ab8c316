export type { Operations } from './operations.ts';
export type { Lent, Made } from './parts.ts';
export { e2bRoutes, sendError } from './routes.ts';
