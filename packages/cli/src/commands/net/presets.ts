import { defineCommand, type Call } from '../../command.ts';

export const presets = defineCommand({
  name: 'presets',
  summary: 'print the rules that have a name',
  args: [],
  options: [],
  examples: [{ line: 'forkd net presets', summary: 'one rule per line, after the name of its preset' }],
  run,
});

async function run({ context }: Call<unknown>): Promise<void> {
  const client = await context.client();
  const list = await client.listNetworkPresets({ signal: context.signal });
  if (context.out.isJson) context.out.json(list);
  else for (const { name, rules } of list) for (const rule of rules) context.out.line(`${name}  ${rule}`);
}
