import type { Duplex } from 'node:stream';
import {
  ApiError,
  type NetworkFlow,
  type NetworkFlowsQuery,
  type NetworkPolicy,
  type NetworkPreset,
  type SandboxInfo,
} from '@forkd/api';
import { EngineError, type Net } from '@forkd/engine';
import { messageOf, withContext } from '../errors.ts';
import { networkPresets } from '../runtime/network-presets.ts';
import { policyOf } from '../runtime/network-rules.ts';
import { subjectOf } from '../state/registry.ts';
import type { Sandbox } from '../state/sandbox.ts';
import type { Host } from './host.ts';

const LOST = 'Its network was lost with the network process. A fork of it has one again.';

/** Changes what a sandbox may reach, from now on: open connections that are no longer allowed are reset. */
export async function setNetwork(host: Host, idOrName: string, network: NetworkPolicy): Promise<SandboxInfo> {
  // A rule that is none is refused before anything waits.
  policyOf(network);
  const { registry, events } = host;
  const { id, changes } = registry.find(idOrName);
  return changes.run(async () => {
    const sandbox = registry.find(id);
    await applyNetwork(host, sandbox, network);
    events.emit('sandbox.updated', subjectOf(sandbox));
    return sandbox.info();
  });
}

/** Changes what a guest may reach, also that of a template which is being built. */
export async function applyNetwork(host: Host, sandbox: Sandbox, network: NetworkPolicy): Promise<void> {
  const { registry, log } = host;
  const policy = policyOf(network);
  const key = keyOf(sandbox);
  // Noted first: a network process that is started meanwhile gets the newest policy.
  const before = sandbox.record.network ?? {};
  await registry.note(sandbox, { network });
  try {
    const reset = await networkOf(host).setPolicy(key, policy);
    log.info({ sandbox: sandbox.id, reset }, 'the network of a sandbox was changed');
  } catch (error) {
    await registry.note(sandbox, { network: before });
    throw withContext(`Sandbox ${sandbox.id}`, error);
  }
}

export function listNetworkPresets(): NetworkPreset[] {
  return Object.entries(networkPresets).map(([name, rules]) => ({ name, rules: [...rules] }));
}

export function readFlows(
  { flows, registry }: Pick<Host, 'flows' | 'registry'>,
  { sandbox, follow = false }: NetworkFlowsQuery,
  signal: AbortSignal,
): AsyncGenerator<NetworkFlow> {
  // A sandbox that has ended is known by its id only, and may still have flows in the log.
  const named = registry.list().find(({ record }) => record.name === sandbox)?.id;
  return flows.read({ sandbox: named ?? sandbox, follow }, signal);
}

/**
 * Connects to a TCP port of a guest: by the network, where the guest has one, and else by its agent, which reaches what listens on
 * loopback only.
 */
export async function connectPort(host: Host, idOrName: string, port: number, signal: AbortSignal): Promise<Duplex> {
  const sandbox = host.registry.running(idOrName);
  const key = sandbox.record.vm?.networkKey;
  const byAgent = () =>
    sandbox.guest.call((agent) => agent.connectPort(port, { signal }), { signal, repeatable: true });
  if (key === undefined || host.network === null) return byAgent();
  try {
    return await host.network.dial(key, port, signal);
  } catch (error) {
    if (!(error instanceof EngineError && error.code === 'refused')) throw withContext(whereOf(sandbox, port), error);
    return byAgent().catch((later: unknown) => {
      // The agent of an older template knows no ports.
      const isOld = later instanceof ApiError && later.code === 'unsupported';
      throw isOld ? withContext(whereOf(sandbox, port), error) : later;
    });
  }
}

function whereOf({ id }: Sandbox, port: number): string {
  return `Port ${port} of sandbox ${id}`;
}

/** Binds the wires of all sandboxes to a network process that was started or found again, and releases those of no sandbox. */
export async function rebindAll(
  { registry, log }: Pick<Host, 'registry' | 'log'>,
  net: Net,
  isFirst: boolean,
): Promise<void> {
  const known = new Set<string>();
  for (const sandbox of registry.all()) {
    const key = sandbox.record.vm?.networkKey;
    if (key === undefined) continue;
    known.add(key);
    try {
      const policy = policyOf(sandbox.record.network ?? {});
      await net.bind({ key, sandbox: sandbox.id, policy, inherited: null });
    } catch (error) {
      log.error({ sandbox: sandbox.id, reason: messageOf(error) }, 'a sandbox has lost its network');
      const warnings = [...new Set([...sandbox.record.warnings, LOST])];
      await registry.note(sandbox, { warnings });
    }
  }
  for (const { key, sandbox } of await net.inventory()) {
    // A wire without a sandbox may be that of a VMM that waits in the pool, unless no pool has been filled yet.
    if (!known.has(key) && (sandbox !== null || isFirst)) await net.release(key);
  }
}

function keyOf({ id, record }: Sandbox): string {
  const key = record.vm?.networkKey;
  if (key !== undefined) return key;
  const sentence = `Sandbox ${id} has no network device: its template was built without one.`;
  throw new ApiError('unsupported', sentence, { hint: 'Build the template with --net, and fork it again.' });
}

function networkOf({ network }: Pick<Host, 'network'>): NonNullable<Host['network']> {
  if (network !== null) return network;
  throw new ApiError('network_unavailable', 'The program forkd-net is not installed.');
}
