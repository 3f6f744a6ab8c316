/**
 * The TypeScript SDK, the Python SDK and the API document have the same operations under the same names: what one of them has
 * and another has not stands here, with the reason. Names are camelCase in TypeScript and snake_case in Python.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as sdk from '@forkd/sdk';
import { REPO } from '@forkd/testing';
import { expect, test as base } from 'vitest';
import { installPython, runProgram } from '../python-environment.ts';

const HERE = join(REPO, 'tests/python');
const TIMEOUT_MS = 300_000;

interface Surface {
  exports: string[];
  classes: Record<string, { members: string[]; attributes: string[] }>;
  models: string[];
}

interface Document {
  paths: Record<string, Record<string, { operationId: string }>>;
  components: { schemas: Record<string, unknown> };
}

const classes = {
  ForkdClient: sdk.ForkdClient,
  Sandbox: sdk.Sandbox,
  Snapshot: sdk.Snapshot,
  Workspace: sdk.Workspace,
  Commands: sdk.Commands,
  CommandHandle: sdk.CommandHandle,
  Ptys: sdk.Ptys,
  PtyHandle: sdk.PtyHandle,
  Files: sdk.Files,
  Events: sdk.Events,
  Controller: sdk.Controller,
};

/** Operations that no SDK has. */
const unreachable: Record<string, string> = {
  metrics: 'text for Prometheus',
  openapi: 'the document itself',
  docs: 'a page for people',
};

/** Operations whose method has another name. */
const shorter: Record<string, string> = { branchSandbox: 'branch', sandboxMemory: 'memory', measureFloor: 'floor' };

/** Methods of the client that are no operation of their own. */
const furtherMethods: Record<string, string> = {
  close: 'ends connections',
  place: 'the address',
  createSandboxesPartially: 'createSandboxes with `partial`',
  createSnapshotEvents: 'createSnapshot with progress',
  startCommandEvents: 'startCommand with output',
  readFileStream: 'readFile in chunks',
};

/** Methods of the TypeScript SDK that Python has not. */
const onlyTypeScriptMethods: Record<string, string> = {
  attachPty: 'httpx has no WebSockets; `sandbox.pty` follows the output of a terminal instead',
  connectPort: 'httpx sends a whole body before it reads the reply; `forkd port` listens on a local port instead',
};

/** Exports of the TypeScript SDK that Python has not. */
const onlyTypeScript: Record<string, string> = {
  CollectedOutput: 'for `forkd`, which is written in TypeScript',
  errorFromEvent: 'for `forkd`',
  parseNdjson: 'for `forkd`',
  sleep: 'Python has one',
  isForkdError: 'Python catches by class, in every realm',
};

const python = await installPython(join(HERE, 'requirements.txt'));

const test = base
  .extend('surface', { scope: 'file' }, async (): Promise<Surface> => {
    if ('missing' in python) return { exports: [], classes: {}, models: [] };
    const env = { ...process.env, PYTHONPATH: join(REPO, 'python/src') };
    const program = [join(HERE, 'surface.py')];
    const { code, output } = await runProgram(join(python.bin, 'python'), program, TIMEOUT_MS, { env });
    if (code !== 0) throw new Error(output);
    return JSON.parse(output) as Surface;
  })
  .extend('document', { scope: 'file' }, async (): Promise<Document> =>
    JSON.parse(await readFile(join(REPO, 'docs/reference/openapi.json'), 'utf8')),
  );

test('each operation of the API is a method of both clients, or has a reason not to be', ({
  skip,
  document,
  surface,
}) => {
  if ('missing' in python) return skip(python.missing);
  const ids = Object.values(document.paths).flatMap((methods) =>
    Object.values(methods).flatMap(({ operationId }) => operationId ?? []),
  );
  expect(ids.length).toBeGreaterThan(40);
  const reachable = ids.filter((id) => !(id in unreachable)).map((id) => shorter[id] ?? id);
  const methods = [...reachable, ...Object.keys(furtherMethods)];
  expect(namesOf(sdk.ForkdClient).toSorted()).toEqual(methods.toSorted());
  const inPython = methods.filter((name) => !(name in onlyTypeScriptMethods));
  expect(surface.classes['ForkdClient']?.members.toSorted()).toEqual(inPython.map(snake).toSorted());
});

test.for(Object.entries(classes))('%s has the same methods in both languages', ([name, type], { skip, surface }) => {
  if ('missing' in python) return skip(python.missing);
  const { members = [], attributes = [] } = surface.classes[name] ?? {};
  const names = namesOf(type)
    .filter((method) => !(method in onlyTypeScriptMethods))
    .map(snake);
  expect(names.filter((method) => ![...members, ...attributes].includes(method))).toEqual([]);
  expect(members.filter((method) => !names.includes(method))).toEqual([]);
});

test('the asynchronous classes have the methods of the synchronous ones', ({ skip, surface }) => {
  if ('missing' in python) return skip(python.missing);
  const { Controller: _, ...both } = classes;
  for (const name of Object.keys(both)) expect(surface.classes[`Async${name}`]).toEqual(surface.classes[name]);
});

test('what the TypeScript SDK exports is in Python, or has a reason not to be', ({ skip, surface }) => {
  if ('missing' in python) return skip(python.missing);
  const missing = Object.keys(sdk).filter((name) => !surface.exports.includes(name));
  expect(missing.toSorted()).toEqual(Object.keys(onlyTypeScript).toSorted());
});

test('each schema of the API is a type of Python', ({ skip, document, surface }) => {
  if ('missing' in python) return skip(python.missing);
  expect(surface.models).toEqual(expect.arrayContaining(Object.keys(document.components.schemas)));
});

/** The methods and getters of a class, static or not. */
function namesOf(type: { prototype: object }): string[] {
  const own = [...Object.getOwnPropertyNames(type.prototype), ...Object.getOwnPropertyNames(type)];
  return [...new Set(own)].filter((name) => !['constructor', 'length', 'name', 'prototype'].includes(name));
}

function snake(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
