import type { Image } from '@forkd/api';

/** A source of a root file system: its identity, and how to turn it into a tree. */
export interface RootSource {
  readonly description: string;
  /** Names the content: equal identities give equal trees. Null where only unpacking would tell. */
  identify(context: SourceContext): Promise<string | null>;
  /** The same source with more packages of its distribution. Absent where nothing would install them. */
  withPackages?(names: readonly string[]): RootSource;
  /** Fills `tree`, which does not exist yet; `dir` is for its temporary files. */
  unpack(tree: string, dir: string, context: SourceContext): Promise<Image>;
}

export interface SourceContext {
  readonly signal: AbortSignal | undefined;
  readonly onProgress: (line: string) => void;
}
