import type { Tool } from '../tool.ts';
import { commandTools } from './commands.ts';
import { fileTools } from './files.ts';
import { sandboxTools } from './sandboxes.ts';
import { snapshotTools } from './snapshots.ts';

export const tools: readonly Tool[] = [...snapshotTools, ...sandboxTools, ...commandTools, ...fileTools];
