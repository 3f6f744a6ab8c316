/** Floods: bytes that a hostile agent sends on its channel without having been asked. */
import { encodeFrame, frameKind } from '@forkd/guest/frame';
import type { AgentChannel } from './channel.ts';

/** An HTTP/2 frame. The payload may be empty. */
function http2Frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header[3] = type;
  header[4] = flags;
  header.writeUInt32BE(stream, 5);
  return Buffer.concat([header, payload]);
}

const settings = http2Frame(4, 0, 0, Buffer.alloc(0));
const ping = http2Frame(6, 0, 0, Buffer.alloc(8));
const windowUpdate = http2Frame(8, 0, 0, Buffer.from([0, 0, 0, 1]));
const unknown = http2Frame(0x77, 0, 0, Buffer.alloc(0));
const longSettings = http2Frame(4, 0, 0, Buffer.alloc(6 * 2048, 1));

/** Bytes for the socket below the channel. */
const raw: Record<string, (channel: AgentChannel) => Buffer> = {
  'frames of others': () => encodeFrame(frameKind.data, 77, Buffer.alloc(4), Buffer.alloc(16_000, 1)),
  delimiters: () => Buffer.alloc(16_000),
  'no frames': () => Buffer.alloc(16_000, 1),
  acknowledgements: (channel) => encodeFrame(frameKind.openAck, channel.id),
};

/** Bytes for the inside of the channel, which carries HTTP/2. */
const inChannel: Record<string, Buffer> = {
  settings: settings,
  pings: ping,
  'window updates': windowUpdate,
  'unknown frames': unknown,
  'long settings': longSettings,
};

export const floods = [...Object.keys(raw), ...Object.keys(inChannel)];

/** Sends bytes without end, as fast as the host accepts them. */
export function flood(name: string, channel: AgentChannel): void {
  const underneath = raw[name]?.(channel);
  const target = underneath === undefined ? channel : channel.socket;
  const one = underneath ?? inChannel[name];
  if (one === undefined) return;
  const many = Buffer.concat(Array.from({ length: Math.ceil(65_536 / one.length) }, () => one));
  const go = (): void => {
    while (!target.destroyed && target.write(many));
  };
  target.on('drain', go);
  // HTTP/2 sends its settings first.
  setImmediate(go);
}
