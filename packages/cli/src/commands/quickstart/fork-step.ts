import { CodedError } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { formatMs } from '../../output/text.ts';
import type { ForkFigures } from './report.ts';
import { FORK_COUNT, TEMPLATE_TAG, type Run } from './run.ts';
import { countDistinct, ownNames, parseAnswer, QUESTION, sharedNames, type ChildAnswer } from './warm.ts';

/** Long enough for ten children at once on two emulated cores, where each waits for the others. */
const EVAL_TIMEOUT_SECS = 120;

/** Forks the template, and asks every child for the inherited values and for the values that must be unique. */
export async function forkStep(run: Run, nonce: string): Promise<ForkFigures> {
  const { client, checks } = run;
  const { out, signal } = run.context;
  out.line(`2. Fork ${FORK_COUNT} children and ask each of them`);
  const startMs = performance.now();
  const infos = await client.createSandboxes({ snapshot_tag: TEMPLATE_TAG, n: FORK_COUNT }, { signal });
  run.sandboxes.push(...infos.map((info) => info.id));
  const answeredMs: number[] = [];
  const answers = await Promise.all(
    infos.map(async (info) => {
      const answer = await ask(client, info.id, signal);
      answeredMs.push(performance.now() - startMs);
      return answer;
    }),
  );
  const figures = {
    n: infos.length,
    first_answer_ms: Math.min(...answeredMs),
    all_answered_ms: Math.max(...answeredMs),
    distinct: countDistinct(answers),
  };
  out.line(
    `   first answer after ${formatMs(figures.first_answer_ms)}, all after ${formatMs(figures.all_answered_ms)}`,
  );
  const secrets = new Set(answers.map((answer) => answer.secret));
  const isWarm = answers.every((answer) => answer.nonce === nonce && answer.intact);
  checks.expect(infos.length === FORK_COUNT, `${FORK_COUNT} children run`, `${infos.length} were started`);
  checks.expect(
    isWarm && secrets.size === 1,
    `all know the secret of the warmed interpreter: ${[...secrets].join(', ')}`,
    'some do not have the state of this template',
  );
  checks.expect(
    figures.distinct === FORK_COUNT,
    `each has its own ${ownNames.join(', ')}`,
    `${figures.distinct} of ${FORK_COUNT} are distinct; in common: ${sharedNames(answers).join(', ')}`,
  );
  return figures;
}

async function ask(client: ForkdClient, id: string, signal: AbortSignal): Promise<ChildAnswer> {
  const answer = await client.eval(id, { code: QUESTION, timeout_secs: EVAL_TIMEOUT_SECS }, { signal });
  if (answer.result === null) {
    throw new CodedError('guest_failed', `Sandbox ${id} could not answer: ${answer.error ?? 'It gave no result.'}`);
  }
  return parseAnswer(answer.result);
}
