/** The load beside the honest callers in one stretch of the run. */
export const WINDOWS = ['honest alone', 'honest neighbours', 'hostile neighbours', 'hostile host', 'kills'] as const;

export type WindowKind = (typeof WINDOWS)[number];

/** The current window of the run. All measurements read it. */
export interface CurrentWindow {
  kind: WindowKind;
}

/** The windows of a run of `minutes`, each of `secs`. The kinds alternate, so that changes of the machine affect all of them. */
export function windowsOf(minutes: number, secs: number): WindowKind[] {
  const rounds = Math.max(1, Math.round((minutes * 60) / (secs * WINDOWS.length)));
  return Array.from({ length: rounds }, () => WINDOWS).flat();
}
