import { beforeAll, describe, expect, test } from 'vitest';
import { branchRoutes } from './branches.ts';
import { Caller, type Target } from './caller.ts';
import { everyRoute, HEADERS_LATE, refuseOnEveryRoute } from './every-route.ts';
import { guestRoutes } from './guests.ts';
import { hostRoutes } from './host.ts';
import { networkRoutes } from './network.ts';
import { sandboxRoutes } from './sandboxes.ts';
import { snapshotRoutes } from './snapshots.ts';
import { reasonNotToSee } from './unseen.ts';
import { workspaceRoutes } from './workspaces.ts';

/** All promises of the wire, for any controller with any engine. */
export function conformance(start: () => Promise<Target>): void {
  let caller: Caller;
  let lateRefusals: ReturnType<typeof refuseOnEveryRoute>;
  const called = () => caller;

  beforeAll(async () => {
    caller = new Caller(await start());
    await caller.learn();
    await caller.expectReply(201, 'POST /v1/snapshots', { tag: 'base', ...caller.target.template });
    // The controller waits ten seconds for headers to end. The other tests run meanwhile.
    lateRefusals = refuseOnEveryRoute(caller, HEADERS_LATE);
    lateRefusals.catch(() => undefined);
  });

  describe('host', () => {
    hostRoutes(called);
  });
  describe('every route', () => {
    everyRoute(called);
  });
  describe('snapshots', () => {
    snapshotRoutes(called);
  });
  describe('sandboxes', () => {
    sandboxRoutes(called);
  });
  describe('guests', () => {
    guestRoutes(called);
  });
  describe('branches', () => {
    branchRoutes(called);
  });
  describe('networks', () => {
    networkRoutes(called);
  });
  describe('workspaces', () => {
    workspaceRoutes(called);
  });

  test(`answers ${HEADERS_LATE} on every route as documented`, async () => {
    expect(await lateRefusals).toEqual([]);
  });

  test('leaves nothing behind', async () => {
    expect(await caller.expectReply(200, 'GET /v1/sandboxes')).toEqual([]);
    const left: { tag: string }[] = await caller.expectReply(200, 'GET /v1/snapshots');
    expect(left.map(({ tag }) => tag)).toEqual(['base']);
  });

  test('has seen every documented reply that a suite can provoke', () => {
    const { checker } = caller;
    const pairs = checker.operations().flatMap(({ id, statuses }) => statuses.map((status) => ({ id, status })));
    const unseen = pairs.filter(({ id, status }) => checker.seen.get(id)?.has(status) !== true);
    const expected = pairs.filter(({ id, status }) => reasonNotToSee(id, status, caller) !== undefined);
    expect(unseen).toEqual(expected);
  });
}
