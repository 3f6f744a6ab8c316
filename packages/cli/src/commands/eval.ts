import { limits } from '@forkd/api/constants';
import { text } from 'node:stream/consumers';
import { defineCommand, type Call } from '../command.ts';
import { exitCodes } from '../lib/errors.ts';
import { seconds } from '../lib/parse.ts';
import { resolveSandbox } from '../lib/resolve.ts';

type Options = { timeout?: number };

export const evalCommand = defineCommand<Options>({
  name: 'eval',
  summary: 'evaluate Python in the warmed interpreter of a sandbox',
  description: 'The interpreter keeps its state from one call to the next. Prints the repr of the last expression.',
  args: [
    { name: 'sandbox', summary: 'id, a beginning of it, or name', completes: 'sandbox' },
    { name: 'code', summary: 'Python; `-` reads it from stdin' },
  ],
  options: [
    {
      flags: '--timeout <time>',
      summary: 'interrupt it after this time',
      parse: seconds('--timeout', limits.execTimeoutSecsMax),
    },
  ],
  examples: [
    { line: "forkd eval sb-1f 'len(model)'", summary: 'what the warm-up left behind' },
    { line: 'forkd eval sb-1f - < step.py', summary: 'a whole file' },
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
  if (answer.error !== null) streams.stderr.write(`${answer.error.trimEnd()}\n`);
  if (answer.state_lost) context.out.warn('the interpreter ended: what it had in memory is lost');
  if (answer.result !== null) context.out.line(answer.result);
  return answer.error !== null && answer.exit_code === 0 ? exitCodes.failure : answer.exit_code;
}
