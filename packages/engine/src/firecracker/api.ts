import { messageOf } from '@forkd/api/constants';
import { Client } from 'undici';
import { EngineError } from '../errors.ts';
import { anySignal } from '../signals.ts';
import { faultIn, instanceIn, machineIn, versionIn } from './answers.ts';
import { type Features, loadBody } from './features.ts';
import type {
  BootSource,
  Drive,
  Instance,
  MachineConfig,
  NetworkInterface,
  SnapshotCreate,
  SnapshotLoad,
  VsockDevice,
} from './requests.ts';

/** How long a request may take that touches no memory. */
const QUICK_MS = 10_000;
/** How long one may that reads or writes all of it. */
const MEMORY_MS = 300_000;
/** No answer of Firecracker's is longer. */
const ANSWER_BYTES_MAX = 64 << 10;

interface Wait {
  timeoutMs: number;
  signal: AbortSignal | undefined;
}

interface Reply {
  status: number;
  text: string;
}

/**
 * Firecracker's API over its unix socket. Throws `vmm_refused` with Firecracker's own words, `vmm_timeout`, `vm_gone` when
 * nobody listens or the process ended meanwhile, or the reason of the signal.
 */
export class FirecrackerApi {
  readonly socket: string;
  readonly #client: Client;

  constructor(socket: string) {
    this.socket = socket;
    // Deadlines are ours, for the whole of a request.
    this.#client = new Client('http://localhost', { socketPath: socket, headersTimeout: 0, bodyTimeout: 0 });
  }

  async close(): Promise<void> {
    await this.#client.destroy();
  }

  version(signal?: AbortSignal): Promise<string> {
    return this.#get('/version', versionIn, signal);
  }

  instance(signal?: AbortSignal): Promise<Instance> {
    return this.#get('/', instanceIn, signal);
  }

  machineConfig(signal?: AbortSignal): Promise<MachineConfig> {
    return this.#get('/machine-config', machineIn, signal);
  }

  setBootSource(source: BootSource, signal?: AbortSignal): Promise<void> {
    return this.#put('/boot-source', source, signal);
  }

  setMachineConfig(machine: MachineConfig, signal?: AbortSignal): Promise<void> {
    return this.#put('/machine-config', machine, signal);
  }

  addDrive(drive: Drive, signal?: AbortSignal): Promise<void> {
    return this.#put(`/drives/${drive.drive_id}`, drive, signal);
  }

  addNetworkInterface(iface: NetworkInterface, signal?: AbortSignal): Promise<void> {
    return this.#put(`/network-interfaces/${iface.iface_id}`, iface, signal);
  }

  setVsock(vsock: VsockDevice, signal?: AbortSignal): Promise<void> {
    return this.#put('/vsock', vsock, signal);
  }

  addEntropy(signal?: AbortSignal): Promise<void> {
    return this.#put('/entropy', {}, signal);
  }

  start(signal?: AbortSignal): Promise<void> {
    return this.#put('/actions', { action_type: 'InstanceStart' }, signal);
  }

  pause(signal?: AbortSignal): Promise<void> {
    return this.#send('PATCH', '/vm', { state: 'Paused' }, { timeoutMs: QUICK_MS, signal });
  }

  resume(signal?: AbortSignal): Promise<void> {
    return this.#send('PATCH', '/vm', { state: 'Resumed' }, { timeoutMs: QUICK_MS, signal });
  }

  /** Creates a snapshot. The VM must be paused. */
  createSnapshot(snapshot: SnapshotCreate, signal?: AbortSignal): Promise<void> {
    return this.#send('PUT', '/snapshot/create', snapshot, { timeoutMs: MEMORY_MS, signal });
  }

  /** Loads a snapshot into a fresh process. Firecracker exits if this fails. */
  loadSnapshot(load: SnapshotLoad, features: Features, signal?: AbortSignal): Promise<void> {
    return this.#send('PUT', '/snapshot/load', loadBody(load, features), { timeoutMs: MEMORY_MS, signal });
  }

  /** Sends a request and returns the reason why Firecracker refuses it. Empty if Firecracker accepts it. */
  async refusal(method: 'PUT', path: string, body: object, signal?: AbortSignal): Promise<string> {
    const { status, text } = await this.#exchange(method, path, body, { timeoutMs: QUICK_MS, signal });
    return status < 300 ? '' : faultIn(text);
  }

  #put(path: string, body: object, signal: AbortSignal | undefined): Promise<void> {
    return this.#send('PUT', path, body, { timeoutMs: QUICK_MS, signal });
  }

  async #get<T>(path: string, read: (value: unknown) => T | null, signal: AbortSignal | undefined): Promise<T> {
    const text = await this.#ask('GET', path, undefined, { timeoutMs: QUICK_MS, signal });
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw new EngineError('vmm_refused', `Firecracker's answer to GET ${path} is no JSON.`, { cause });
    }
    const answer = read(value);
    if (answer !== null) return answer;
    throw new EngineError('vmm_refused', `Firecracker's answer to GET ${path} is not what it should be.`);
  }

  async #send(method: 'PUT' | 'PATCH', path: string, body: object, wait: Wait): Promise<void> {
    await this.#ask(method, path, body, wait);
  }

  async #ask(method: Method, path: string, body: object | undefined, wait: Wait): Promise<string> {
    const { status, text } = await this.#exchange(method, path, body, wait);
    if (status < 300) return text;
    throw new EngineError('vmm_refused', `Firecracker refused ${method} ${path}: ${faultIn(text)}`);
  }

  async #exchange(method: Method, path: string, body: object | undefined, wait: Wait): Promise<Reply> {
    wait.signal?.throwIfAborted();
    const deadline = AbortSignal.timeout(wait.timeoutMs);
    const signal = anySignal(deadline, wait.signal);
    try {
      const response = await this.#client.request({
        method,
        path,
        signal,
        ...(body && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
      });
      return { status: response.statusCode, text: await textOf(response.body as AsyncIterable<Buffer>) };
    } catch (cause) {
      wait.signal?.throwIfAborted();
      if (deadline.aborted) {
        const sentence = `Firecracker did not answer ${method} ${path} within ${wait.timeoutMs} ms.`;
        throw new EngineError('vmm_timeout', sentence, { cause });
      }
      const why = messageOf(cause);
      throw new EngineError('vm_gone', `Firecracker at ${this.socket} gave no answer to ${method} ${path}: ${why}.`, {
        cause,
      });
    }
  }
}

type Method = 'GET' | 'PUT' | 'PATCH';

async function textOf(body: AsyncIterable<Buffer>): Promise<string> {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of body) {
    length += part.length;
    if (length > ANSWER_BYTES_MAX) throw new Error('the answer is too long');
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}
