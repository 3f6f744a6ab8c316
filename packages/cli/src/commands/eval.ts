import { text } from 'node:stream/consumers';
import type { EvalResponse } from '@forkd/api';
import { limits, visibleText } from '@forkd/api/constants';
import { defineCommand, type Call } from '../command.ts';
import { exitCodes } from '../lib/errors.ts';
import { addressOptions } from '../parse/older-options.ts';
import { seconds } from '../parse/parse.ts';
import { resolveSandbox } from '../parse/resolve.ts';

interface Options {
  timeout?: number;
}

export const evalCommand = defineCommand<Options>({
  name: 'eval',
  summary: 'evaluate Python in the warmed-up interpreter of a sandbox',
  description: 'The interpreter keeps its state from one call to the next. Prints the repr of the last expression.',
  args: [
    { name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' },
    { name: 'code', summary: 'Python code; `-` reads it from stdin' },
  ],
  options: [
    {
      flags: '--timeout <time>',
      summary: 'interrupt the evaluation after this time',
      parse: seconds('--timeout', limits.execTimeoutSecsMax),
    },
    ...addressOptions,
  ],
  examples: [
    { line: "forkd eval sb-1f 'len(model)'", summary: 'use what the warm-up has loaded' },
    { line: 'forkd eval sb-1f - < step.py', summary: 'evaluate a file' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<number> {
  const { streams, isJson } = context.out;
  const code = args[1] === '-' ? await text(streams.stdin) : (args[1] ?? '');
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, args[0] ?? '', context);
  const request = options.timeout === undefined ? { code } : { code, timeout_secs: options.timeout };
  const answer = await client.eval(sandboxId, request, { signal: context.signal });
  if (isJson) {
    context.out.json(answer);
    return answer.exit_code;
  }
  if (answer.stdout) streams.stdout.write(answer.stdout);
  if (answer.stderr) streams.stderr.write(answer.stderr);
  for (const said of [answer.error, answer.traceback]) {
    if (said != null) streams.stderr.write(`${visibleText(said.trimEnd())}\n`);
  }
  if (answer.truncated) context.out.warn(cutText(answer));
  if (answer.state_lost) context.out.warn('The interpreter ended, and its state is lost.');
  if (answer.result !== null) context.out.line(answer.result);
  return answer.error !== null && answer.exit_code === 0 ? exitCodes.failure : answer.exit_code;
}

function cutText({ stdout_dropped_bytes: stdout, stderr_dropped_bytes: stderr }: EvalResponse): string {
  const parts = [
    ...(stdout === undefined ? [] : [`${stdout} bytes of stdout`]),
    ...(stderr === undefined ? [] : [`${stderr} bytes of stderr`]),
  ];
  return parts.length === 0
    ? 'The result or the output is cut.'
    : `The output is cut: ${parts.join(' and ')} are left out.`;
}
