import { once } from 'node:events';
import { lstat, rename, symlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { forkOne, HostileAgent, type PayloadLab, type TestController } from '@forkd/testing';
import type { AgentFigures } from '../agent-client.ts';
import { Helper } from '../helper.ts';
import type { HostileFigures } from '../hostile-client.ts';
import { harmByTurns } from './hostile-vmms.ts';

/** Actions of the neighbours, and how often each happened. */
export interface NeighbourFigures {
  /** Requests of hostile callers, by kind. */
  callers: HostileFigures;
  /** Requests to sandboxes with malicious agents. */
  agents: AgentFigures;
  /** Branches of malicious VMMs, by the pager that also branches the payloads. */
  vmms: Record<string, number>;
  /** Requests of the honest neighbours. */
  peers: AgentFigures;
}

const CALLERS = 4;
/** Replies of the agents in hostile sandboxes, by the names of `@forkd/testing`. */
const LIES = ['endless reply', 'large listing', 'endless output', 'endless gaps', 'frames of others'];

/**
 * Malicious callers and agents of one controller, and malicious VMMs of one pager, each in a process of its own. For
 * comparison, the same number of callers send ordinary requests beside them.
 */
export class Neighbours implements AsyncDisposable {
  readonly figures: NeighbourFigures = { callers: {}, agents: {}, vmms: {}, peers: {} };
  readonly #callers: Helper<HostileFigures>;
  readonly #askers: Helper<AgentFigures>;
  readonly #peers: Helper<AgentFigures>;
  /** Hostile agents, by the socket of the sandbox whose agent each replaces. */
  readonly #agents: ReadonlyMap<string, HostileAgent>;

  readonly #lab: PayloadLab;

  private constructor(parts: {
    callers: Helper<HostileFigures>;
    askers: Helper<AgentFigures>;
    peers: Helper<AgentFigures>;
    agents: ReadonlyMap<string, HostileAgent>;
    lab: PayloadLab;
  }) {
    this.#callers = parts.callers;
    this.#askers = parts.askers;
    this.#peers = parts.peers;
    this.#agents = parts.agents;
    this.#lab = parts.lab;
  }

  /** Forks a sandbox for each lie, and starts the agent for it. */
  static async prepare({ client, socket }: TestController, lab: PayloadLab): Promise<Neighbours> {
    const ids: string[] = [];
    const agents = new Map<string, HostileAgent>();
    for (const lie of LIES) {
      const id = await forkOne(client);
      const { guest_addr } = await client.getSandbox(id);
      agents.set(guest_addr.replace(/^unix:/, ''), await HostileAgent.start(lie));
      ids.push(id);
    }
    const victim = await forkOne(client);
    const loops = CALLERS + LIES.length;
    const peers = await Promise.all(Array.from({ length: loops }, () => forkOne(client)));
    return new Neighbours({
      callers: await Helper.start('hostile-client', [socket, victim, String(CALLERS)]),
      askers: await Helper.start('agent-client', [socket, ...ids]),
      peers: await Helper.start('agent-client', [socket, ...peers]),
      agents,
      lab,
    });
  }

  /** Lets as many honest callers as there are hostile callers and agents make requests until `signal` fires. */
  async runHonest(signal: AbortSignal): Promise<void> {
    await this.#peers.begin();
    if (!signal.aborted) await once(signal, 'abort');
    add(this.figures.peers, await this.#peers.pause());
  }

  /** Lets the hostile callers, agents and VMMs act until `signal` fires. */
  async run(signal: AbortSignal): Promise<void> {
    // A pager that was started since has restored the sandboxes' own sockets.
    for (const [socket, agent] of this.#agents) await replaceAgent(socket, agent.socket);
    await Promise.all([this.#callers.begin(), this.#askers.begin()]);
    add(this.figures.vmms, await harmByTurns(this.#lab, signal));
    const [callers, agents] = await Promise.all([this.#callers.pause(), this.#askers.pause()]);
    add(this.figures.callers, callers);
    add(this.figures.agents, agents);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#callers[Symbol.asyncDispose]();
    await this.#askers[Symbol.asyncDispose]();
    await this.#peers[Symbol.asyncDispose]();
    for (const agent of this.#agents.values()) await agent[Symbol.asyncDispose]();
  }
}

function add(all: Record<string, number>, more: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(more)) all[name] = (all[name] ?? 0) + count;
}

/** Replaces the socket of the agent by a link and ends the connection, so that the next one follows the link. */
async function replaceAgent(socket: string, by: string): Promise<void> {
  if ((await lstat(socket)).isSymbolicLink()) return;
  const replacing = connect(socket);
  await once(replacing, 'connect');
  const link = `${socket}.hostile`;
  await symlink(by, link);
  await rename(link, socket);
  replacing.destroy();
}
