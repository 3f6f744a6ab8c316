import { readdirSync } from 'node:fs';
import type { Exposition } from './exposition.ts';

/** The usual measures of a process, under their usual names. */
export function addProcessMetrics(all: Exposition): void {
  const startedUnixSecs = Date.now() / 1000 - process.uptime();
  all.counted('process_cpu_seconds_total', 'Processor time of the controller.', () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1_000_000;
  });
  all.gauge('process_resident_memory_bytes', 'Memory of the controller.', () => process.memoryUsage.rss());
  all.gauge('process_open_fds', 'Open files of the controller.', () => readdirSync('/proc/self/fd').length - 1);
  all.gauge('process_start_time_seconds', 'When the controller started, in Unix time.', () => startedUnixSecs);
}
