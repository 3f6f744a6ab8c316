import { type AcceleratorProbe, askProgram, type Facts, unanswered } from '../facts.ts';
import { runProgram } from '../programs.ts';
import { aptInstall, fail, ofController, pass, skip, warn, type Finding } from '../row.ts';

/** Enough for QEMU's firmware to print its first line, even emulated on a busy host. */
const FIRMWARE_TIMEOUT_MS = 60_000;
/** The first output of SeaBIOS on QEMU's debug port. */
const FIRMWARE_SIGN = 'SeaBIOS (version';
const SLOWER = 'guests are emulated: everything works, more slowly; a host whose KVM can run a stock kernel is faster';

/** Finds the accelerator of guests: asks the running controller, or makes the same trial as a controller would. */
export async function acceleratorFinding(facts: Facts): Promise<Finding> {
  const host = await facts.host();
  if (host !== undefined) return ofController(verdict(host.engine));
  const { file: qemu, version } = await facts.qemu();
  if (qemu === undefined || version === undefined) return skip('there is no QEMU to try');
  const command = ['probe', 'accelerator', '--data-dir', await facts.dataDir()];
  const answer = await askProgram(command, facts.env, facts.signal);
  if ('said' in answer) return warn(unanswered(answer), 'no sandbox can be run');
  const probe = JSON.parse(answer.stdout) as AcceleratorProbe;
  // If emulation can run the firmware, which comes with QEMU, it can also run a kernel.
  if (probe.accelerator === 'kvm' || (await emulates(facts, qemu))) return verdict(probe);
  return fail(
    `${qemu} runs no guest: emulation does not start its firmware, and KVM is not used: ${probe.reason}`,
    'no sandbox can be run; QEMU and its firmware have to be installed anew',
    aptInstall(['--reinstall', 'qemu-system-x86', 'seabios']),
  );
}

function verdict({ accelerator, reason }: Pick<AcceleratorProbe, 'accelerator' | 'reason'>): Finding {
  const detail = `${accelerator}: ${reason}`;
  return accelerator === 'kvm' ? pass(detail) : warn(detail, SLOWER);
}

async function emulates({ env, signal }: Facts, qemu: string): Promise<boolean> {
  const args = [
    ['-accel', 'tcg', '-M', 'pc', '-m', '256', '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
    ['-chardev', 'stdio,id=log', '-device', 'isa-debugcon,iobase=0x402,chardev=log'],
  ].flat();
  const options = { env, signal, timeoutMs: FIRMWARE_TIMEOUT_MS, until: FIRMWARE_SIGN };
  return (await runProgram(qemu, args, options)).stdout.includes(FIRMWARE_SIGN);
}
