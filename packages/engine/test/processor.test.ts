/** The processors that a snapshot can go on with: what is recorded, and the refusal of a restore elsewhere. */
import { expect, test } from 'vitest';
import { compareMachines } from '../src/machine.ts';
import { makeProcessor, readHostProcessor } from '../src/processor.ts';
import type { Machine, Processor } from '../src/types.ts';

const flags = ['fpu', 'sse2', ...Array.from({ length: 20 }, (_, n) => `flag${String(n).padStart(2, '0')}`)];
const there = makeProcessor({ vendor: 'GenuineIntel', family: 6, model: 85, stepping: 4 }, flags);

function machine(processor?: Processor): Machine {
  const parts = { engine_version: '7.2', machine: 'microvm', accelerator: 'kvm', cpu_model: 'host' } as const;
  return { engine: 'qemu', ...parts, mem_mib: 256, vcpus: 1, ...(processor && { processor }) };
}

/** The message with which a snapshot of `there` is refused where guests get `here`. */
function refusal(here: Processor | undefined, snapshot: Processor | undefined = there): string | null {
  try {
    compareMachines(machine(here), machine(snapshot));
    return null;
  } catch (error) {
    expect(error).toMatchObject({ code: 'machine_mismatch', hint: expect.stringContaining('x86-64-v2') });
    return (error as Error).message;
  }
}

test('a snapshot resumes on its processor, and on one with more flags', () => {
  expect(refusal(there)).toBeNull();
  expect(refusal(makeProcessor(there, [...flags, 'avx9000']))).toBeNull();
});

test.each([
  ['vendor', 'AuthenticAMD'],
  ['family', 25],
  ['model', 17],
  ['stepping', 1],
] as const)('a snapshot is refused with the difference when the %s of the processor differs', (key, value) => {
  const here = { ...there, [key]: value };
  expect(refusal(here)).toContain(`the processor's ${key} is ${value} here and ${there[key]} there`);
});

test('a snapshot is refused when flags are missing, and a dozen of them are named', () => {
  expect(refusal(makeProcessor(there, flags.slice(1)))).toContain('the processor lacks these flags here: fpu.');
  const message = refusal(makeProcessor(there, []));
  expect(message).toContain('flag00, flag01');
  expect(message).toMatch(/flag\d\d and 10 more\.$/);
});

test('a snapshot without a recorded processor resumes, and one that cannot be compared is refused', () => {
  expect(() => compareMachines(machine(there), machine())).not.toThrow();
  expect(refusal(undefined)).toContain('cannot be told here');
});

test('the digest of the flags does not depend on their order', () => {
  expect(makeProcessor(there, flags.toReversed())).toEqual(there);
  expect(makeProcessor(there, flags.slice(1)).flags_digest).not.toBe(there.flags_digest);
});

test("the host's own processor is told", async () => {
  expect(await readHostProcessor()).toMatchObject({
    vendor: expect.stringMatching(/./),
    family: expect.any(Number),
    flags: expect.stringContaining(' fpu '),
    flags_digest: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
  });
});
