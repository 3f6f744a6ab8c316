import type { Command, CommandGroup } from '../command.ts';

/** Loads a command. The word that a user types is its key, so that one command can be run without loading the others. */
type Loaders = Readonly<Record<string, () => Promise<Command>>>;

/** Every command, in the order in which help shows them. */
const groups: readonly { title: string; loaders: Loaders }[] = [
  {
    title: 'Getting started',
    loaders: {
      quickstart: async () => (await import('./quickstart/index.ts')).quickstart,
      run: async () => (await import('./run.ts')).run,
    },
  },
  {
    title: 'Snapshots',
    loaders: {
      'from-image': async () => (await import('./from-image.ts')).fromImage,
      rebuild: async () => (await import('./rebuild.ts')).rebuild,
      snapshot: async () => (await import('./snapshot/index.ts')).snapshot,
      'snapshot-diff': async () => (await import('./snapshot-diff.ts')).snapshotDiff,
      images: async () => (await import('./images.ts')).images,
      'snapshot-info': async () => (await import('./snapshot-info.ts')).snapshotInfo,
      'snapshot-compact': async () => (await import('./snapshot-compact.ts')).snapshotCompact,
      rmi: async () => (await import('./rmi.ts')).rmi,
      prune: async () => (await import('./prune.ts')).prune,
    },
  },
  {
    title: 'Sandboxes',
    loaders: {
      fork: async () => (await import('./fork.ts')).fork,
      ls: async () => (await import('./ls.ts')).ls,
      update: async () => (await import('./update.ts')).update,
      pause: async () => (await import('./pause.ts')).pause,
      resume: async () => (await import('./pause.ts')).resume,
      net: async () => (await import('./net/index.ts')).net,
      kill: async () => (await import('./kill.ts')).kill,
    },
  },
  {
    title: 'Inside a sandbox',
    loaders: {
      exec: async () => (await import('./exec.ts')).exec,
      shell: async () => (await import('./shell.ts')).shell,
      attach: async () => (await import('./attach.ts')).attach,
      eval: async () => (await import('./eval.ts')).evalCommand,
      cp: async () => (await import('./cp.ts')).cp,
      files: async () => (await import('./files/index.ts')).files,
      ping: async () => (await import('./ping.ts')).ping,
      port: async () => (await import('./port.ts')).port,
      logs: async () => (await import('./logs.ts')).logs,
    },
  },
  {
    title: 'Workspaces',
    loaders: { workspace: async () => (await import('./workspace/index.ts')).workspace },
  },
  {
    title: 'Overview',
    loaders: {
      tree: async () => (await import('./tree.ts')).tree,
      inspect: async () => (await import('./inspect.ts')).inspect,
      stats: async () => (await import('./stats.ts')).stats,
      events: async () => (await import('./events.ts')).events,
    },
  },
  {
    title: 'This host',
    loaders: {
      mcp: async () => (await import('./mcp.ts')).mcp,
      doctor: async () => (await import('./doctor/index.ts')).doctor,
      cleanup: async () => (await import('./cleanup.ts')).cleanup,
      stop: async () => (await import('./stop.ts')).stop,
      version: async () => (await import('./version.ts')).version,
      completion: async () => (await import('./completion.ts')).completion,
      bench: async () => (await import('./bench/index.ts')).bench,
      'wp-bench': async () => (await import('./wp-bench.ts')).wpBench,
      __complete: async () => (await import('./complete.ts')).complete,
    },
  },
];

/** All commands: for help, completion and the reference. */
export function loadCommandGroups(): Promise<CommandGroup[]> {
  return Promise.all(
    groups.map(async ({ title, loaders }) => {
      const commands = await Promise.all(Object.values(loaders).map((load) => load()));
      return { title, commands };
    }),
  );
}

/** Only the command of this name, in its group. All commands if none has this name: it may be an alias or a typing error. */
export async function loadCommand(name: string): Promise<CommandGroup[]> {
  for (const { title, loaders } of groups) {
    const load = Object.hasOwn(loaders, name) ? loaders[name] : undefined;
    if (load !== undefined) return [{ title, commands: [await load()] }];
  }
  return loadCommandGroups();
}
