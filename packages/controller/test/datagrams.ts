import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { onTestFinished } from 'vitest';

// Node has no unix datagram sockets. Prints what arrives, and the pid that the kernel says it comes from, a line each.
const RECEIVER = `
import array, json, os, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
s.bind(sys.argv[1])
print("{}", flush=True)
while True:
    data, more, _, _ = s.recvmsg(65536, 4096)
    # What waits until its message was read waits for this.
    for _, kind, value in more:
        if kind == socket.SCM_RIGHTS:
            for fd in array.array("i", value):
                os.close(fd)
    pids = [struct.unpack("iii", value)[0] for _, kind, value in more if kind == socket.SCM_CREDENTIALS]
    print(json.dumps({"text": data.decode(), "pid": pids[0]}), flush=True)
`;

export interface Datagram {
  text: string;
  pid: number;
}

/** A real service manager's socket at `path`, and what has come to it, barriers left out. */
export async function receiveDatagrams(path: string): Promise<Datagram[]> {
  const child: ChildProcess = spawn('python3', ['-c', RECEIVER, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(async () => {
    const ended = once(child, 'exit');
    child.kill();
    await ended;
  });
  const received: Datagram[] = [];
  let rest = '';
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', () => reject(new Error('the receiver has ended')));
    child.stdout?.on('data', (chunk: Buffer) => {
      resolve();
      const lines = `${rest}${chunk.toString()}`.split('\n');
      rest = lines.pop() ?? '';
      const all = lines.map((line) => JSON.parse(line) as Datagram);
      received.push(...all.filter(({ text }) => text !== undefined && text !== 'BARRIER=1'));
    });
  });
  return received;
}
