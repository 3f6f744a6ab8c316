import type { NetworkPolicy } from '@forkd/api';
import { defineCommand, type Call } from '../../command.ts';
import { networkOf, networkOptions, type NetworkOptions } from '../../parse/network-options.ts';
import { resolveSandbox } from '../../parse/resolve.ts';
import { log } from './log.ts';
import { presets } from './presets.ts';

export const net = defineCommand<NetworkOptions>({
  name: 'net',
  summary: 'print or change what a sandbox may reach',
  description:
    'Without an option it prints the rules. With any, the options replace all rules at once: open connections that are no ' +
    'longer allowed are reset.',
  args: [{ name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' }],
  options: networkOptions,
  examples: [
    { line: 'forkd net sb-1f', summary: 'print what it may reach' },
    { line: 'forkd net sb-1f --allow pypi.org:443 --allow github', summary: 'a name and a preset, and nothing else' },
    {
      line: 'forkd net sb-1f --net all --deny "*.example.com"',
      summary: 'everything that is public, but for some names',
    },
    { line: 'forkd net sb-1f --net none', summary: 'nothing' },
    { line: 'forkd net log -f', summary: 'print connections of all sandboxes, as they happen' },
  ],
  subcommands: [log, presets],
  run,
});

async function run({ context, args, options }: Call<NetworkOptions>): Promise<void> {
  const client = await context.client();
  const { out, signal } = context;
  const id = await resolveSandbox(client, args[0] ?? '', context);
  const wanted = networkOf(options);
  const info =
    wanted === undefined ? await client.getSandbox(id, { signal }) : await client.setNetwork(id, wanted, { signal });
  if (out.isJson) out.json(info.network ?? null);
  else if (info.network === undefined) out.line('no network device');
  else for (const line of linesOf(info.network)) out.line(line);
}

function linesOf({ access = 'none', allow = [], deny = [] }: NetworkPolicy): string[] {
  const words = access === 'all' ? 'all public addresses' : 'none but what is allowed';
  return [`access: ${words}`, ...allow.map((rule) => `allow: ${rule}`), ...deny.map((rule) => `deny: ${rule}`)];
}
