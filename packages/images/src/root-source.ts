/** What a kind of source knows: who it is, and how to become a tree. */
export interface RootSource {
  readonly description: string;
  /** Names the content: equal identities give equal trees. Null where only unpacking would tell. */
  identify(context: SourceContext): Promise<string | null>;
  /** Fills `tree`, which does not exist yet; `dir` is for its temporary files. */
  unpack(tree: string, dir: string, context: SourceContext): Promise<RootConfig>;
}

export interface SourceContext {
  readonly signal: AbortSignal | undefined;
  readonly onProgress: (line: string) => void;
}

/** How a program starts in the root, as the image's author meant it. */
export interface RootConfig {
  readonly env: Readonly<Record<string, string>>;
  /** An absolute path. */
  readonly workdir: string;
  /** A name or a number, with `:group` where the image says one. */
  readonly user: string;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
}
