/** The real agent as a process of this host (`--socket`), and a proxy in front of it whose connections can be broken at any byte. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { test as base } from 'vitest';
import { type CommandInfo, type DirectoryEntry, GuestAgent, type WaitOptions } from '../src/index.ts';

const BUILT = '../../../target/guest/x86_64-unknown-linux-gnu/release/forkd-agent';
const agentPath = process.env['FORKD_AGENT_BIN'] ?? fileURLToPath(new URL(BUILT, import.meta.url));
const BUILD_COMMAND =
  "CARGO_TARGET_DIR=target/guest RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked -p forkd-agent --target x86_64-unknown-linux-gnu";

export interface Harness {
  folder: string;
  socketPath: string;
  process: ChildProcess;
  stop(): Promise<void>;
}

export async function startAgent(): Promise<Harness> {
  if (!existsSync(agentPath)) throw new Error(`there is no agent at ${agentPath}: build it with\n  ${BUILD_COMMAND}`);
  const folder = mkdtempSync(join(tmpdir(), 'forkd-guest-test-'));
  const socketPath = join(folder, 'agent.sock');
  const child = spawn(agentPath, ['--socket', socketPath], { stdio: ['ignore', 'inherit', 'inherit'] });
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit');
    rmSync(folder, { recursive: true, force: true });
  };
  // The socket is there a moment before the agent listens on it.
  while (child.exitCode === null && !(await isListening(socketPath))) await sleep(5);
  return { folder, socketPath, process: child, stop };
}

function isListening(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('error', () => resolve(false));
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });
}

/** `test` with an agent that all tests of a file share, and a connection to it. */
export const test = base
  .extend('harness', { scope: 'file' }, async ({}, { onCleanup }) => {
    const harness = await startAgent();
    onCleanup(() => harness.stop());
    return harness;
  })
  .extend('agent', { scope: 'file' }, async ({ harness }, { onCleanup }) => {
    const agent = await GuestAgent.connect(harness.socketPath, { timeoutMs: 10_000 });
    onCleanup(() => agent.close());
    return agent;
  });

export interface Proxy {
  socketPath: string;
  /** Breaks every connection. Bytes on their way, half a frame perhaps, are lost. */
  cut(): void;
  close(): Promise<void>;
}

/** `hostBytesMax`: passes only so many bytes of each connection to the agent, and then breaks it. */
export async function startProxy(harness: Harness, hostBytesMax = Infinity): Promise<Proxy> {
  const socketPath = join(harness.folder, `proxy-${Math.random().toString(36).slice(2)}.sock`);
  const sockets = new Set<Socket>();
  const server: Server = createServer((host) => {
    const guest = connect(harness.socketPath);
    let left = hostBytesMax;
    host.on('data', (bytes: Buffer) => {
      guest.write(bytes.subarray(0, left));
      left -= bytes.length;
      if (left <= 0) setTimeout(() => host.destroy(), 20);
    });
    guest.pipe(host);
    for (const socket of [host, guest]) {
      sockets.add(socket);
      socket
        .on('error', () => {})
        .on('close', () => {
          sockets.delete(socket);
          host.destroy();
          guest.destroy();
        });
    }
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  const cut = (): void => sockets.forEach((socket) => socket.destroy());
  const close = async (): Promise<void> => {
    cut();
    await new Promise((resolve) => server.close(resolve));
  };
  return { socketPath, cut, close };
}

export function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('utf8');
}

export async function allOf(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

export async function listed(agent: GuestAgent, path: string, wait?: WaitOptions): Promise<DirectoryEntry[]> {
  const entries: DirectoryEntry[] = [];
  await agent.listDir(path, (entry) => void entries.push(entry), wait);
  return entries;
}

export async function commands(agent: GuestAgent, wait?: WaitOptions): Promise<CommandInfo[]> {
  const found: CommandInfo[] = [];
  await agent.list((command) => void found.push(command), wait);
  return found;
}
