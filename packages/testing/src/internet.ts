import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';

const LOOPBACK = '127.0.0.1';
const HEADER_BYTES = 12;
const TYPE_A = 1;

/** A DNS server and TCP servers on loopback, which stand for an internet. */
export class Internet implements AsyncDisposable {
  readonly #dns: UdpSocket;
  readonly #servers = new Map<Server, Set<Socket>>();
  /** Names that the DNS server was asked for, as often as it was. */
  readonly asked: string[] = [];

  private constructor(dns: UdpSocket) {
    this.#dns = dns;
  }

  /** Every name stands for `address`. */
  static async start(address = LOOPBACK): Promise<Internet> {
    const dns = createSocket('udp4');
    const internet = new Internet(dns);
    dns.on('message', (query, from) => {
      const answer = internet.#answer(query, address);
      if (answer !== null) dns.send(answer, from.port, from.address);
    });
    dns.bind(0, LOOPBACK);
    await once(dns, 'listening');
    return internet;
  }

  /** The DNS server, as the controller's option `--resolver` has it. */
  get resolver(): string {
    return `${LOOPBACK}:${this.#dns.address().port}`;
  }

  /** Serves TCP, and returns the port. */
  async serve(onConnection: (socket: Socket) => void): Promise<number> {
    const sockets = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.add(socket);
      socket.on('error', () => socket.destroy());
      socket.once('close', () => sockets.delete(socket));
      onConnection(socket);
    });
    this.#servers.set(server, sockets);
    server.listen(0, LOOPBACK);
    await once(server, 'listening');
    return (server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#dns.close();
    for (const [server, sockets] of this.#servers) {
      server.close();
      for (const socket of sockets) socket.destroy();
    }
  }

  /** Answers the first question. A name has an IPv4 address and no record of another kind. */
  #answer(query: Buffer, address: string): Buffer | null {
    const labels: string[] = [];
    let at = HEADER_BYTES;
    for (let length = query[at]; length !== undefined && length > 0; length = query[at]) {
      labels.push(query.subarray(at + 1, at + 1 + length).toString('latin1'));
      at += 1 + length;
    }
    const end = at + 5;
    if (query.length < end) return null;
    this.asked.push(labels.join('.').toLowerCase());
    const isA = query.readUInt16BE(at + 1) === TYPE_A;
    const header = Buffer.from(query.subarray(0, HEADER_BYTES));
    header.writeUInt16BE(0x8180, 2);
    header.writeUInt16BE(1, 4);
    header.writeUInt16BE(isA ? 1 : 0, 6);
    header.fill(0, 8, HEADER_BYTES);
    const question = query.subarray(HEADER_BYTES, end);
    // A pointer to the question's name, type A, class IN, a minute, four bytes.
    const record = Buffer.from([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address.split('.').map(Number)]);
    return Buffer.concat(isA ? [header, question, record] : [header, question]);
  }
}
