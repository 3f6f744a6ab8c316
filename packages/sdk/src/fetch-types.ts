/** The part of a Response that the client reads. The replies of undici, Node, the platform and tests all fit. */
export interface ReplyLike {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  readonly body: AsyncIterable<Uint8Array> | null;
  text(): Promise<string>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

export interface FetchInit {
  method: string;
  headers: Record<string, string>;
  signal: AbortSignal;
  body?: string | Uint8Array | AsyncIterable<Uint8Array>;
  duplex?: 'half';
}

export type FetchLike = (url: string, init: FetchInit) => Promise<ReplyLike>;

/** The part of a WebSocket that the client uses. Those of undici and of browsers fit. */
export interface WebSocketLike {
  binaryType: string;
  addEventListener(type: 'message', listener: (event: { data: unknown }) => void): void;
  addEventListener(type: 'close' | 'error', listener: () => void): void;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(): void;
}

/** A request for a WebSocket. Who cannot send headers gets a ticket in their place. */
export interface WebSocketInit {
  protocol: string;
  headers: Record<string, string>;
  ticket: () => Promise<string>;
}

/** Sends requests if the caller passed no `fetch`. */
export interface PlatformFetch {
  fetch: FetchLike;
  /** Begins to connect. */
  webSocket: (url: string, init: WebSocketInit) => Promise<WebSocketLike>;
  close(): Promise<void>;
}
