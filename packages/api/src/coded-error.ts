export interface CodedErrorOptions {
  /** The advice for the caller, if there is any. */
  hint?: string | undefined;
  cause?: unknown;
}

/** An error with a stable code for programs. `message` is one sentence that says what happened. */
export class CodedError<Code extends string = string> extends Error {
  readonly code: Code;
  readonly hint: string | undefined;

  constructor(code: Code, message: string, { hint, cause }: CodedErrorOptions = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.hint = hint;
  }
}

/** The sentence of anything that can be thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
