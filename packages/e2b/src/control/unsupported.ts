import type { FastifyInstance } from 'fastify';
import { notSupported } from '../errors.ts';

/** Routes of E2B's that forkd has nothing for. Each answers with an error that its SDKs show to their caller. */
const routes = [
  ['put', '/sandboxes/:id/network', 'Changing the network of a sandbox'],
  ['post', '/v3/templates', 'Building a template over this wire'],
  ['post', '/v2/templates', 'Building a template over this wire'],
  ['post', '/templates/tags', 'A tag of a template'],
  ['delete', '/templates/tags', 'A tag of a template'],
  ['get', '/templates/:id/tags', 'A tag of a template'],
  ['get', '/volumes', 'A volume'],
  ['post', '/volumes', 'A volume'],
  ['get', '/volumes/:id', 'A volume'],
  ['delete', '/volumes/:id', 'A volume'],
  ['get', '/secrets', 'A secret'],
  ['post', '/secrets', 'A secret'],
  ['get', '/secrets/:id', 'A secret'],
  ['post', '/secrets/:id', 'A secret'],
  ['delete', '/secrets/:id', 'A secret'],
] as const;

export function unsupportedRoutes(app: FastifyInstance): void {
  for (const [method, path, what] of routes) {
    app[method](path, () => {
      throw notSupported(what);
    });
  }
}
