import { finished } from 'node:stream/promises';
import type { ForkdClient } from '@forkd/sdk';
import { fromJsonSchema, McpServer, type CallToolResult, type ServerContext } from '@modelcontextprotocol/server';
import { serveStdio as serve } from '@modelcontextprotocol/server/stdio';
import { Budget } from './budget.ts';
import { errorResult, resultOf } from './results.ts';
import type { Limits, Tool } from './tool.ts';
import { tools } from './tools/index.ts';

const INSTRUCTIONS = `Sandboxes are virtual machines that start in milliseconds from a snapshot, and that can be forked while they
run: each fork continues from that instant with its own memory, files and processes. List the snapshots first. Start a sandbox with
spawn_sandboxes, run programs in it with exec_command, or code in its warm interpreter with eval_code. To try several ways from one
state, fork the running sandbox with fork_sandbox. End what is no longer needed with kill_sandbox.`;

export interface ServeOptions extends Limits {
  client: ForkdClient;
  version: string;
  /** Only tools that change nothing. */
  readOnly: boolean;
  signal: AbortSignal;
}

/** Serves one MCP client on this process's stdin and stdout. Resolves when the client has left or the signal fires. */
export async function serveStdio(options: ServeOptions): Promise<void> {
  const budget = new Budget(options.client, options);
  const handle = serve(() => mcpServer(options, budget), {
    onerror: (error) => process.stderr.write(`forkd mcp: ${error.message}\n`),
  });
  await finished(process.stdin, { signal: options.signal, writable: false }).catch(() => {});
  await handle.close();
}

function mcpServer({ client, version, readOnly }: ServeOptions, budget: Budget): McpServer {
  const server = new McpServer(
    { name: 'forkd', title: 'forkd', version },
    { capabilities: { tools: {} }, instructions: INSTRUCTIONS },
  );
  for (const tool of tools) {
    if (readOnly && tool.effect !== 'read') continue;
    server.registerTool(tool.name, describe(tool), async (args: unknown, context: ServerContext) => {
      const { signal } = context.mcpReq;
      return answer(tool, args, { client, budget, signal, progress: progressOf(context) });
    });
  }
  return server;
}

function describe({ title, description, effect, isIdempotent, input, output }: Tool) {
  const annotations = {
    title,
    readOnlyHint: effect === 'read',
    destructiveHint: effect === 'destroy',
    idempotentHint: isIdempotent,
    openWorldHint: false,
  };
  return { title, description, inputSchema: fromJsonSchema(input), outputSchema: fromJsonSchema(output), annotations };
}

async function answer(tool: Tool, args: unknown, call: Parameters<Tool['run']>[1]): Promise<CallToolResult> {
  try {
    return resultOf(await tool.run(args as never, call));
  } catch (error) {
    return errorResult(error);
  }
}

/** Counts the steps. A client that has sent no token does not want to know. */
function progressOf({ mcpReq }: ServerContext): (message: string) => void {
  const { _meta: meta } = mcpReq;
  const progressToken = meta?.progressToken;
  if (progressToken === undefined) return () => {};
  let progress = 0;
  return (message) => {
    progress += 1;
    const params = { progressToken, progress, message };
    // A client that has left does not hear of it.
    mcpReq.notify({ method: 'notifications/progress', params }).catch(() => {});
  };
}
