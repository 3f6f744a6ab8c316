/**
 * The trial of KVM, with programs in QEMU's place that fail as QEMU does on some hosts: which processor model is chosen, and
 * what is said of it.
 */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { requireKvm, tryKvm } from '../src/qemu/probe.ts';
import { runTrial } from '../src/qemu/trial.ts';

const KERNEL = { vmlinuz: '/dev/null', initramfs: '/dev/null' };
/** As QEMU 7.2 ends where KVM refuses a register's value. */
const ABORTS = `echo "qemu: error: failed to set MSR 0x10a to 0x69" >&2
  echo "qemu: kvm.c:3183: kvm_buf_set_msrs: Assertion 'ret == nmsrs' failed." >&2
  kill -ABRT $$`;

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp('/tmp/fk-probe-');
});

afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
});

/** A QEMU that does `onModel` when it is to start a processor, and `onKernel` when it is to run a kernel. */
async function qemu(onModel: string, onKernel = 'exit 0'): Promise<string> {
  const program = join(dir, 'qemu');
  await writeFile(program, `#!/bin/sh\ncase "$*" in\n*-kernel*) ${onKernel} ;;\n*) ${onModel} ;;\nesac\n`);
  await chmod(program, 0o755);
  return program;
}

test('a processor model that QEMU aborts on is replaced by the next, and the reason quotes QEMU', async () => {
  const program = await qemu(
    `case "$*" in *"-cpu host "*) ${ABORTS} ;; esac`,
    'echo "Linux version 6.1"; exec sleep 60',
  );
  const said = `With '-cpu host' QEMU says: qemu: error: failed to set MSR 0x10a to 0x69.`;
  expect(await tryKvm(program, KERNEL)).toEqual({
    runs: true,
    model: 'host,-arch-capabilities',
    reason: ` ${said} The processor model is 'host,-arch-capabilities' instead.`,
  });
  expect(await requireKvm(program)).toMatchObject({
    accelerator: 'kvm',
    cpuModel: 'host,-arch-capabilities',
    reason: expect.stringContaining(said),
  });
});

test('a QEMU that starts no processor under KVM is refused with its message for each model', async () => {
  const program = await qemu(ABORTS);
  expect(await tryKvm(program, KERNEL)).toMatchObject({ runs: false, reason: expect.stringMatching(/(0x10a.*){3}/) });
  await expect(requireKvm(program)).rejects.toMatchObject({
    code: 'engine_missing',
    hint: expect.stringContaining('failed to set MSR 0x10a'),
  });
});

test('a kernel that does not run under KVM is reported with the last message of QEMU', async () => {
  const program = await qemu('exit 0', 'echo "KVM: entry failed, hardware error 0x7" >&2; exit 1');
  expect(await tryKvm(program, KERNEL)).toMatchObject({
    runs: false,
    model: 'host',
    reason: expect.stringContaining('QEMU said: KVM: entry failed, hardware error 0x7.'),
  });
});

test('a program that hangs, floods and prints control characters is ended in time and reported in one line', async () => {
  // A process that it leaves behind has its output open, and ends when it writes there again.
  const flood = 'yes "$(printf "\\033[2J%01000d" 7)" >&2 & yes';
  const result = await runTrial('sh', { args: ['-c', flood], timeoutMs: 300 });
  expect(result.status).toBeNull();
  expect(result.stdout.length).toBeLessThanOrEqual(64 * 1024);
  expect(result.lastWords).toMatch(/^\P{Cc}{1,300}$/u);
});
