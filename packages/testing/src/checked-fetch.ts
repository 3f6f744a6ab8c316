import type { FetchLike, ReplyLike } from '@forkd/sdk';
import { Agent, fetch } from 'undici';
import { type Asked, ReplyChecker } from './reply-checker.ts';

/** A connection to a controller's unix socket. Every reply is compared with the API document while it is read. */
export interface CheckedConnection {
  fetch: FetchLike;
  close(): Promise<void>;
}

let checker: ReplyChecker | undefined;

export function checkedConnection(socketPath: string): CheckedConnection {
  // The HTTP agent closes an idle connection long before the controller does, like the agent of the client.
  const agent = new Agent({ headersTimeout: 0, bodyTimeout: 0, keepAliveMaxTimeout: 10_000, connect: { socketPath } });
  return {
    async fetch(url, init) {
      const reply = await fetch(url, { ...init, dispatcher: agent });
      return checked({ method: init.method, path: new URL(url).pathname }, reply);
    },
    close: () => agent.close(),
  };
}

/** The same reply, except that reading its body fails if the body does not match the document. */
function checked(asked: Asked, reply: ReplyLike): ReplyLike {
  checker ??= new ReplyChecker();
  const by = checker;
  const media = by.head(asked, reply);
  const check = (text: string): string => {
    by.check(asked, reply, text);
    return text;
  };
  const { item } = media ?? { item: null };
  return {
    status: reply.status,
    headers: reply.headers,
    body:
      reply.body === null || item === null
        ? reply.body
        : tapped(reply.body, (line) => by.item(asked, reply, item, line)),
    text: async () => check(await reply.text()),
    arrayBuffer: () => reply.arrayBuffer(),
  };
}

/** Passes the bytes of a stream on. Each complete item in them goes to `onItem` first. */
async function* tapped(chunks: AsyncIterable<Uint8Array>, onItem: (text: string) => void): AsyncGenerator<Uint8Array> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of chunks) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      // Items are lines of JSON, or the data lines of server-sent events.
      const item = line.startsWith('{') ? line : /^data: (.*)$/.exec(line)?.[1];
      if (item !== undefined) onItem(item);
    }
    yield chunk;
  }
}
