import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline/promises';
import type { Context } from '../../context.ts';
import { UsageError } from '../../lib/errors.ts';
import { checks, lookAt } from './checks.ts';
import { Facts } from './facts.ts';
import { commandLine, type Finding, type Fix } from './row.ts';

/** Requires a terminal, as no command is run without asking the user. */
export function requireTerminal(context: Context): void {
  if (context.out.streams.stdin.isTTY) return;
  throw new UsageError(
    '--fix asks before each command, and stdin is not a terminal.',
    'Run it in a terminal, or run the commands that `forkd doctor` prints.',
  );
}

/**
 * Offers the command of each row that warns or fails, each command once.
 * @returns true if any command was run; the findings may then be out of date.
 */
export async function mend(context: Context, findings: ReadonlyMap<string, Finding>): Promise<boolean> {
  const offered = new Set<string>();
  let hasRun = false;
  for (const check of checks) {
    const first = findings.get(check.id);
    if (first === undefined || !isOffered(first)) continue;
    // The command of another row may have fixed this one.
    const now = hasRun ? await lookAt(check, new Facts(context)) : first;
    if (!isOffered(now)) continue;
    const line = commandLine(now.fix);
    if (offered.has(line)) continue;
    offered.add(line);
    if (!(await isWanted(context, `${check.id}: run ${line} ? [y/N] `))) continue;
    hasRun = true;
    const end = await runFix(context, now.fix);
    if (end !== undefined) context.out.warn(`${now.fix.argv[0]} ${end}`);
  }
  return hasRun;
}

function isOffered(finding: Finding): finding is Finding & { fix: Fix } {
  return finding.fix !== null && (finding.status === 'warn' || finding.status === 'fail');
}

async function isWanted({ out, signal }: Context, question: string): Promise<boolean> {
  const prompt = createInterface({ input: out.streams.stdin, output: out.streams.stdout, terminal: false });
  try {
    // The end of the input answers no to all questions.
    const closed = new Promise<string>((resolve) => prompt.once('close', () => resolve('')));
    const answer = await Promise.race([prompt.question(question, { signal }), closed]);
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    prompt.close();
  }
}

/** Runs the command on the user's terminal, where it can ask questions. @returns how it failed; undefined if it did not. */
function runFix({ env, signal }: Context, { argv: [file, ...args], input }: Fix): Promise<string | undefined> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      env,
      signal,
      stdio: [input === undefined ? 'inherit' : 'pipe', 'inherit', 'inherit'],
    });
    // If the command does not read its input, its exit status has the reason.
    child.stdin?.on('error', () => {});
    child.stdin?.end(`${input}\n`);
    child.once('error', (error) => (signal.aborted ? reject(signal.reason as Error) : resolve(error.message)));
    child.once('close', (code, by) => resolve(code === 0 ? undefined : `ended with ${by ?? `status ${code}`}`));
  });
}
