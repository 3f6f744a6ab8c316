/** The parts of the document, in its order. */
export const tags = {
  sandboxes: 'Running VMs: fork them from snapshots, look at them, pause them, branch them, end them.',
  commands: 'Processes in sandboxes. They belong to the guest, not to the connection that started them.',
  files: 'Files in sandboxes.',
  snapshots: 'Restorable points: templates, which are built from images, and branches of running sandboxes.',
  workspaces: 'Sandboxes with a name that outlive their VM.',
  host: 'The controller and its host.',
} as const;
