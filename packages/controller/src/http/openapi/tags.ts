/** The sections of the document, in order. */
export const tags = {
  sandboxes: 'Running VMs: fork them from snapshots, inspect, pause, branch and end them.',
  commands: 'Processes in sandboxes. A command belongs to its guest, and outlives the connection that started it.',
  files: 'Files in sandboxes.',
  network: 'What sandboxes may reach, what they have reached, and their ports.',
  snapshots: 'Restorable states: templates, which are built from images, and branches of running sandboxes.',
  workspaces: 'Named sandboxes that outlive their VM.',
  host: 'The controller and its host.',
} as const;
