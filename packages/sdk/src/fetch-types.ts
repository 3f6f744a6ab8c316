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

/** Sends requests if the caller passed no `fetch`. */
export interface PlatformFetch {
  fetch: FetchLike;
  close(): Promise<void>;
}
