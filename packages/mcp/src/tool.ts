import type { ForkdClient } from '@forkd/sdk';
import type { Static, TObject, TSchema } from 'typebox';
import type { Budget } from './budget.ts';

/** Limits on what a model may start through this server. */
export interface Limits {
  /** The number of sandboxes that this server has started and that still exist. */
  sandboxesMax: number;
  /** The time to live of each sandbox that this server starts, in seconds. */
  ttlSecs: number;
}

/** A call of a tool. */
export interface Call {
  client: ForkdClient;
  budget: Budget;
  /** Fires when the client cancels the call or leaves. */
  signal: AbortSignal;
  /** Reports what is being done, if the client wants to know. */
  progress: (message: string) => void;
}

/**
 * The effect of a tool on the host: `read` changes nothing, `write` changes or makes something, `destroy` removes something or runs
 * a program that may.
 */
export type Effect = 'read' | 'write' | 'destroy';

export interface Tool {
  name: string;
  title: string;
  /** Text for the model: when to use the tool, and how. */
  description: string;
  effect: Effect;
  /** True if a second call with the same arguments changes nothing more. */
  isIdempotent: boolean;
  input: TObject;
  /** The structure of the result. A list is the field `result` of an object, as MCP wants an object. */
  output: TSchema;
  run: (args: never, call: Call) => Promise<unknown>;
}

/** Ties `run` to the type of its arguments. */
export function defineTool<Input extends TObject>(
  tool: Omit<Tool, 'input' | 'run' | 'isIdempotent'> & {
    input: Input;
    isIdempotent?: boolean;
    run: (args: Static<Input>, call: Call) => Promise<unknown>;
  },
): Tool {
  return { isIdempotent: tool.effect === 'read', ...tool };
}
