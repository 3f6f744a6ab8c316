import { makeProcessor } from '../processor.ts';
import type { Processor } from '../types.ts';
import { runTrial } from './trial.ts';

const TIMEOUT_MS = 5_000;

interface Expansion {
  return?: { model?: { props?: Record<string, unknown> } };
}

/**
 * Reads the processor that a guest gets from each of these `-cpu` models under KVM on this host. A model that QEMU does not
 * describe is left out.
 */
export async function readProcessors(
  program: string,
  models: readonly string[],
  signal?: AbortSignal,
): Promise<Map<string, Processor>> {
  const commands = [{ execute: 'qmp_capabilities' }, ...models.map(expansionOf), { execute: 'quit' }];
  const input = commands.map((command) => `${JSON.stringify(command)}\n`).join('');
  const args = ['-M', 'none', '-accel', 'kvm', '-nodefaults', '-no-user-config', '-display', 'none', '-qmp', 'stdio'];
  const { stdout } = await runTrial(program, { args, input, timeoutMs: TIMEOUT_MS, signal });
  const answers = stdout.split('\n').map(parse);
  // Each command has one answer, in order. The greeting and events are not answers.
  const [, ...expansions] = answers.filter((answer) => answer !== null && ('return' in answer || 'error' in answer));
  const processors = new Map<string, Processor>();
  for (const [index, model] of models.entries()) {
    const processor = processorOf(expansions[index]?.return?.model?.props ?? {});
    if (processor) processors.set(model, processor);
  }
  return processors;
}

function expansionOf(cpuModel: string) {
  const [name = '', ...changes] = cpuModel.split(',');
  const flags = changes.filter((change) => /^[+-]/.test(change));
  const props = Object.fromEntries(flags.map((flag) => [flag.slice(1), flag.startsWith('+')]));
  return { execute: 'query-cpu-model-expansion', arguments: { type: 'static', model: { name, props } } };
}

function parse(line: string): Expansion | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

function processorOf(props: Record<string, unknown>): Processor | undefined {
  const { vendor, family, model, stepping } = props;
  if (typeof vendor !== 'string' || typeof family !== 'number') return undefined;
  if (typeof model !== 'number' || typeof stepping !== 'number') return undefined;
  const flags = Object.keys(props).filter((name) => props[name] === true);
  return makeProcessor({ vendor, family, model, stepping }, flags);
}
