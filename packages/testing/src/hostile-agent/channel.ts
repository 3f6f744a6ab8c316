/** The agent's end of the channel: one connection at a time, as frames on a unix socket. */
import { createServer, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { encodeFrame, FrameDecoder, frameKind } from '@forkd/guest/frame';

const SEQUENCE_BYTES = 4;
const DATA_BYTES_MAX = 16 * 1024 - SEQUENCE_BYTES;

export class AgentChannel extends Duplex {
  readonly socket: Socket;
  readonly id: number;
  #sequence = 0;

  constructor(socket: Socket, id: number) {
    super({ highWaterMark: 1 << 20 });
    this.socket = socket;
    this.id = id;
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    const frames: Buffer[] = [];
    for (let at = 0; at < chunk.length; at += DATA_BYTES_MAX) {
      const sequence = Buffer.alloc(SEQUENCE_BYTES);
      sequence.writeUInt32LE(this.#sequence);
      this.#sequence = (this.#sequence + 1) >>> 0;
      frames.push(encodeFrame(frameKind.data, this.id, sequence, chunk.subarray(at, at + DATA_BYTES_MAX)));
    }
    this.socket.write(Buffer.concat(frames), done);
  }
}

/** Serves the channel on a socket; `onOpen` gets each connection that the host opens. */
export function serveChannel(path: string, onOpen: (channel: AgentChannel) => void): void {
  const server = createServer((socket) => {
    const decoder = new FrameDecoder();
    let channel: AgentChannel | undefined;
    socket.on('error', () => undefined);
    socket.on('close', () => channel?.destroy());
    socket.on('data', (bytes: Buffer) => {
      for (const frame of decoder.push(bytes)) {
        if (frame.kind === frameKind.open) {
          socket.write(Buffer.concat([Buffer.of(0), encodeFrame(frameKind.openAck, frame.connection)]));
          if (channel?.id === frame.connection) continue;
          channel = new AgentChannel(socket, frame.connection);
          channel.on('error', () => undefined);
          onOpen(channel);
        } else if (frame.kind === frameKind.data && frame.connection === channel?.id) {
          channel.push(frame.payload.slice(SEQUENCE_BYTES));
        }
      }
    });
  });
  server.listen(path);
}
