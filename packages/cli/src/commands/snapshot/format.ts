import type { ExportSnapshotRequest } from '@forkd/api';
import type { OptionSpec } from '../../command.ts';

export type FormatOptions = Pick<ExportSnapshotRequest, 'format'>;

export const formatOption: OptionSpec = {
  flags: '--format <format>',
  summary: 'format of the files',
  choices: ['firecracker'],
  required: true,
};
