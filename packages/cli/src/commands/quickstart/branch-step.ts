import { messageOf, CodedError } from '@forkd/api/constants';
import { formatBytes, formatMs } from '../../output/text.ts';
import { counterArgs, counterStart } from './counter.ts';
import { Follower } from './follower.ts';
import type { BranchFigures } from './report.ts';
import { branchTags, type Run } from './run.ts';

/** The number of new lines that prove that a counter runs. */
const LINES_TO_SEE = 10;
const FLOOR_SAMPLES = 3;

interface Source {
  sandboxId: string;
  commandId: string;
  follower: Follower;
}

/** Branches one child live several times while a counter runs in it. Forks each branch and checks the counter there. */
export async function branchStep(run: Run): Promise<BranchFigures[]> {
  const { client, host, context } = run;
  const sandboxId = run.sandboxes[0];
  if (sandboxId === undefined) throw new CodedError('not_found_sandbox', 'No child was started.');
  context.out.line(`3. Run a counter in ${sandboxId}, and branch it live ${branchTags.length} times while it counts`);
  if (host.engine.live_unavailable !== null) {
    throw new CodedError('unsupported', `No live branch on this host: ${host.engine.live_unavailable}`, {
      hint: '`forkd doctor` says more.',
    });
  }
  const { signal } = context;
  const command = await client.startCommand(sandboxId, { args: [...counterArgs] }, { signal });
  const place = { sandboxId, commandId: command.id };
  const source = { ...place, follower: new Follower(client, place, counterStart) };
  try {
    const figures: BranchFigures[] = [];
    for (const tag of branchTags) figures.push(await branchOnce(run, source, tag));
    return figures;
  } finally {
    await source.follower.stop();
  }
}

async function branchOnce(run: Run, source: Source, tag: string): Promise<BranchFigures> {
  const { client, checks } = run;
  const { out, signal } = run.context;
  await seeLines(source.follower, `the counter in ${source.sandboxId} runs`, signal);
  const floorMs = await medianFloorMs(run, source.sandboxId);
  const before = source.follower.reader.state;
  const startMs = performance.now();
  const info = await client.branch(source.sandboxId, { tag, mode: 'live', until: 'ready' }, { signal });
  const readyMs = info.ready_ms ?? performance.now() - startMs;
  // Output up to here was printed by the source. Output of a child beyond this offset was printed by the child.
  const { output_end: endOfSource } = await client.getCommand(source.sandboxId, source.commandId, { signal });
  const pauseMs = (info.pause_us ?? Number.NaN) / 1000;
  const captured = info.captured_bytes ?? 0;
  out.line(
    `   ${tag}: paused ${formatMs(pauseMs)} (floor ${formatMs(floorMs)}), captured ${formatBytes(captured)}, ready in ${formatMs(readyMs)}`,
  );
  const [forked] = await client.createSandboxes({ snapshot_tag: tag, n: 1 }, { signal });
  if (forked === undefined) throw new CodedError('bad_response', `The fork of ${tag} is empty.`);
  run.sandboxes.push(forked.id);

  const child = new Follower(client, { sandboxId: forked.id, commandId: source.commandId }, before);
  const childFault = await faultOf(
    child,
    (state) => state.offset > endOfSource,
    `the counter goes on in ${forked.id}`,
    signal,
  );
  const childEnd = child.reader.state.next - 1;
  await child.stop();
  const childContinued = checks.expect(
    childFault === undefined && before.next > 0,
    `${forked.id} went on from ${before.next} and counted to ${childEnd} by itself`,
    childFault ?? 'the source had not begun to count',
  );
  const resumedAt = source.follower.reader.state.next;
  const isAhead = (state: { next: number }) => state.next >= resumedAt + LINES_TO_SEE;
  const sourceFault = await faultOf(source.follower, isAhead, `the counter in ${source.sandboxId} goes on`, signal);
  const sourceContinued = checks.expect(
    sourceFault === undefined,
    `the source counted on without a gap, and is at ${source.follower.reader.state.next}`,
    sourceFault ?? '',
  );
  return {
    tag,
    pause_ms: pauseMs,
    floor_ms: floorMs,
    captured_bytes: captured,
    ready_ms: readyMs,
    source_continued: sourceContinued,
    child_continued: childContinued,
  };
}

function seeLines(follower: Follower, what: string, signal: AbortSignal): Promise<void> {
  const wanted = follower.reader.state.next + LINES_TO_SEE;
  return follower.until((state) => state.next >= wanted, what, signal);
}

/** @returns the fault in a counter's lines up to the condition, or why the condition was not met; undefined if all is well. */
async function faultOf(
  follower: Follower,
  isMet: Parameters<Follower['until']>[0],
  what: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  try {
    await follower.until(isMet, what, signal);
    await seeLines(follower, what, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    return follower.reader.fault ?? messageOf(error);
  }
  return follower.reader.fault;
}

async function medianFloorMs(run: Run, sandboxId: string): Promise<number> {
  const samples: number[] = [];
  for (let taken = 0; taken < FLOOR_SAMPLES; taken += 1) {
    samples.push((await run.client.floor(sandboxId, { signal: run.context.signal })).pause_us / 1000);
  }
  return samples.toSorted((one, other) => one - other)[Math.floor(FLOOR_SAMPLES / 2)] ?? Number.NaN;
}
