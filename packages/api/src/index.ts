export * from './constants.ts';
export * from './schemas/branch.ts';
export * from './schemas/commands.ts';
export * from './schemas/common.ts';
export * from './schemas/files.ts';
export * from './schemas/host.ts';
export * from './schemas/sandboxes.ts';
export * from './schemas/snapshots.ts';
