import type { BranchReport } from './branch.ts';

/** The pauses of a report as an SVG. The drawing library is large, and loaded only here. */
export async function branchChart({ summary }: BranchReport): Promise<string> {
  const { pauseChart } = await import('./charts/index.ts');
  return `${pauseChart(summary)}\n`;
}
