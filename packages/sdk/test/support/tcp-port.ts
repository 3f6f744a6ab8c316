import { connect, createServer, type AddressInfo } from 'node:net';

/** A TCP port of this host behind which is a unix socket: controllers under test have no port of their own. */
export interface TcpPort {
  url: string;
  close(): Promise<void>;
}

export async function openTcpPort(socketPath: string): Promise<TcpPort> {
  const server = createServer((near) => {
    const far = connect(socketPath);
    near.on('error', () => far.destroy());
    far.on('error', () => near.destroy());
    near.pipe(far).pipe(near);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
