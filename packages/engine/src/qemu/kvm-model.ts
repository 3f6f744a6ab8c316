import { EMULATED_MODEL, MACHINE } from './arguments.ts';
import { runTrial } from './trial.ts';

/** QEMU says within this time whether KVM can give a guest a processor. */
const MODEL_TIMEOUT_MS = 5_000;

/**
 * Names for `-cpu` under KVM, the best first. QEMU aborts with `host` where KVM offers a register and then refuses its value, as
 * some nested ones do with the architectural capabilities; the last is the model that is emulated elsewhere.
 */
const KVM_MODELS = ['host', 'host,-arch-capabilities', EMULATED_MODEL] as const;

/** The processor model that QEMU can give a guest under KVM, and what it said of those that it cannot. */
export interface KvmModel {
  /** `null` when QEMU can give none. */
  model: string | null;
  refused: readonly Refusal[];
}

interface Refusal {
  model: string;
  said: string;
}

/** Finds the processor model for guests under KVM by starting each without a guest. */
export async function chooseKvmModel(program: string, signal?: AbortSignal): Promise<KvmModel> {
  const refused: Refusal[] = [];
  for (const model of KVM_MODELS) {
    const said = await whyRefused(program, model, signal);
    if (said === null) return { model, refused };
    refused.push({ model, said });
  }
  return { model: null, refused };
}

/** Sentences about the models that QEMU refused; empty if there are none. */
export function refusals({ model, refused }: KvmModel): string {
  const said = refused.map((refusal) => ` With '-cpu ${refusal.model}' QEMU says: ${refusal.said}.`).join('');
  return said === '' || model === null ? said : `${said} The processor model is '${model}' instead.`;
}

/** `null` when QEMU sets up a processor of this model under KVM. The registers are set before any command is answered. */
async function whyRefused(program: string, model: string, signal: AbortSignal | undefined): Promise<string | null> {
  const args = [
    ['-M', MACHINE, '-accel', 'kvm', '-cpu', model, '-m', '32', '-S'],
    ['-nodefaults', '-no-user-config', '-display', 'none', '-qmp', 'stdio'],
  ].flat();
  const input = '{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n';
  const { status, lastWords } = await runTrial(program, { args, input, timeoutMs: MODEL_TIMEOUT_MS, signal });
  return status === 0 ? null : lastWords;
}
