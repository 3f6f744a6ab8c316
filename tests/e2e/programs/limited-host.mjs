// Reports what this host can do, as `limited-host.test.ts` asks: run under forkd-deny, so that pager, controller and VMMs are all
// denied the same. Prints what it has seen as one line of JSON.
import {
  forkOne,
  installedStorm,
  installStorm,
  Lab,
  makeTemplate,
  nextStormLine,
  startStorm,
  TestController,
} from '@forkd/testing';

const STORM_MIB = 16;

const MODES = ['live', 'diff', 'full'];

const [subject] = process.argv.slice(2);
const subjects = {
  booted: () => throughEngine(false),
  engine: () => throughEngine(true),
  controller: throughController,
};
const report = await subjects[subject]();
process.stdout.write(`${JSON.stringify(report)}\n`);

/**
 * A guest that was booted, which has anonymous memory, and a child of it, which has memory over files.
 * @param {boolean} withChild
 */
async function throughEngine(withChild) {
  const lab = await Lab.start();
  try {
    const booted = await lab.boot();
    await installStorm(booted.agent);
    const storm = await startStorm(booted.agent, STORM_MIB);
    const first = await branches(lab, booted);
    const seen = {
      reason: lab.pager.liveUnavailable,
      booted: brief(first),
      ...(await nextStormLine(booted.agent, storm)),
    };
    if (!withChild) return seen;
    await lab.end(booted);
    const child = await lab.fork(lab.point(booted, first.diff));
    const second = await branches(lab, child);
    return { ...seen, child: brief(second), ...(await nextStormLine(child.agent, storm)) };
  } finally {
    await lab[Symbol.asyncDispose]();
  }
}

/** @param {Lab} lab @param {import('@forkd/testing').Guest} guest */
async function branches(lab, guest) {
  const done = {};
  for (const mode of MODES) done[mode] = await lab.branch(guest, { mode, audit: true }).catch((error) => error);
  return done;
}

function brief(outcomes) {
  const entries = Object.entries(outcomes).map(([mode, outcome]) => [mode, outcome.audit ?? failure(outcome)]);
  return Object.fromEntries(entries);
}

async function throughController() {
  const controller = await TestController.start();
  try {
    const { client } = controller;
    await makeTemplate(client);
    const id = await forkOne(client);
    const storm = await installedStorm(client, id, STORM_MIB);
    const outcomes = {};
    for (const mode of MODES) {
      outcomes[mode] = await client.branch(id, { tag: mode, mode }).then(({ status }) => status, failure);
    }
    const snapshots = await client.listSnapshots();
    const child = await forkOne(client, 'diff');
    await client.deleteSandbox(child);
    const { errors } = await storm.next();
    return { ...outcomes, tags: snapshots.map(({ tag }) => tag), errors };
  } finally {
    await controller[Symbol.asyncDispose]();
  }
}

function failure({ name, code, status, message, hint }) {
  return { name, code, status, message, hint };
}
