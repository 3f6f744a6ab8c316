import * as api from '@forkd/api';
import type { TSchema } from 'typebox';

/** A JSON schema of the document. */
export interface JsonSchema {
  [keyword: string]: unknown;
}

/** Schemas with a name in the document. All others are written inline. */
const named: Record<string, TSchema> = {
  BranchRequest: api.BranchRequest,
  CommandEvent: api.CommandEvent,
  CommandInfo: api.CommandInfo,
  CompactSnapshotRequest: api.CompactSnapshotRequest,
  ControllerEvent: api.ControllerEvent,
  CreatePortUrlRequest: api.CreatePortUrlRequest,
  CreateSandboxesRequest: api.CreateSandboxesRequest,
  CreateSnapshotRequest: api.CreateSnapshotRequest,
  CreateWorkspaceRequest: api.CreateWorkspaceRequest,
  DirEntry: api.DirEntry,
  EngineInfo: api.EngineInfo,
  ErrorBody: api.ErrorBody,
  ErrorEvent: api.ErrorEvent,
  EvalRequest: api.EvalRequest,
  EvalResponse: api.EvalResponse,
  ExecRequest: api.ExecRequest,
  ExecResponse: api.ExecResponse,
  FloorInfo: api.FloorInfo,
  ForkResult: api.ForkResult,
  Health: api.Health,
  HostInfo: api.HostInfo,
  Labels: api.Labels,
  MemoryInfo: api.MemoryInfo,
  NetworkFlow: api.NetworkFlow,
  NetworkPolicy: api.NetworkPolicy,
  NetworkPreset: api.NetworkPreset,
  PartialForkResponse: api.PartialForkResponse,
  PingResponse: api.PingResponse,
  PortUrl: api.PortUrl,
  PruneSnapshotsRequest: api.PruneSnapshotsRequest,
  PruneSnapshotsResponse: api.PruneSnapshotsResponse,
  PtySize: api.PtySize,
  PtyTicket: api.PtyTicket,
  SandboxInfo: api.SandboxInfo,
  SandboxStats: api.SandboxStats,
  ShutdownResponse: api.ShutdownResponse,
  SignalRequest: api.SignalRequest,
  SnapshotEvent: api.SnapshotEvent,
  SnapshotInfo: api.SnapshotInfo,
  SnapshotInfoDetail: api.SnapshotInfoDetail,
  StartCommandRequest: api.StartCommandRequest,
  SuspendWorkspaceRequest: api.SuspendWorkspaceRequest,
  UpdateSandboxRequest: api.UpdateSandboxRequest,
  VersionInfo: api.VersionInfo,
  WorkspaceInfo: api.WorkspaceInfo,
};

/** A named schema is recognised by its content, because a schema that becomes optional or described is a copy. */
const names = new Map(Object.entries(named).map(([name, schema]) => [contentOf(schema), name]));

function contentOf(schema: unknown): string {
  const { description: _description, examples: _examples, ...content } = schema as JsonSchema;
  return JSON.stringify(content);
}

export function componentSchemas(): Record<string, JsonSchema> {
  return Object.fromEntries(Object.entries(named).map(([name, schema]) => [name, inner(schema)]));
}

/** The schema for the document: a reference if it has a name, and unions in the form that readers expect. */
export function documented(schema: unknown): JsonSchema {
  const name = names.get(contentOf(schema));
  if (name === undefined) return inner(schema);
  const { description } = schema as JsonSchema;
  const isOwn = description !== undefined && description !== (named[name] as JsonSchema)['description'];
  return { $ref: `#/components/schemas/${name}`, ...(isOwn && { description }) };
}

function inner(schema: unknown): JsonSchema {
  const { description, examples: _, properties, patternProperties, items, anyOf, ...rest } = schema as JsonSchema;
  return {
    ...rest,
    ...(properties !== undefined && { properties: each(properties) }),
    ...(patternProperties !== undefined && recordOf(patternProperties)),
    ...(items !== undefined && { items: documented(items) }),
    ...(Array.isArray(anyOf) && unionOf(anyOf.map(documented))),
    ...(description !== undefined && { description }),
  };
}

function each(schemas: unknown): Record<string, JsonSchema> {
  return Object.fromEntries(Object.entries(schemas as JsonSchema).map(([key, value]) => [key, documented(value)]));
}

/** A single pattern becomes `propertyNames`, because keys that do not match it are refused. */
function recordOf(patternProperties: unknown): JsonSchema {
  const [only, ...others] = Object.entries(patternProperties as JsonSchema);
  if (only === undefined || others.length > 0) return { patternProperties: each(patternProperties) };
  const [pattern, value] = only;
  const isAnyKey = pattern === '^.*$';
  return { ...(!isAnyKey && { propertyNames: { pattern } }), additionalProperties: documented(value) };
}

/** A union of constants becomes an enum, and a nullable type becomes a list of two types. */
function unionOf(branches: JsonSchema[]): JsonSchema {
  const nullable = branches.some(({ type }) => type === 'null');
  const others = branches.filter(({ type }) => type !== 'null');
  const words = others.flatMap((branch) => ('const' in branch ? [branch['const']] : (asEnum(branch) ?? [])));
  if (others.length > 0 && others.every((branch) => 'const' in branch || asEnum(branch) !== undefined)) {
    return nullable ? { type: ['string', 'null'], enum: [...words, null] } : { type: 'string', enum: words };
  }
  const [only] = others;
  if (nullable && others.length === 1 && typeof only?.['type'] === 'string') {
    return { ...only, type: [only['type'], 'null'] };
  }
  return { anyOf: branches };
}

function asEnum({ type, enum: words }: JsonSchema): unknown[] | undefined {
  return type === 'string' && Array.isArray(words) ? words : undefined;
}
