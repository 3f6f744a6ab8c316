/** `1536` → `1.5 GiB`. */
export function formatMib(mib: number): string {
  return mib >= 1024 ? `${Number((mib / 1024).toPrecision(3))} GiB` : `${mib} MiB`;
}

/** Describes the kind of guest. */
export function guestName(guest: { mem_mib: number; private_mib: number; storm: boolean }): string {
  const how = guest.storm ? 'rewritten' : 'written once';
  return `${formatMib(guest.mem_mib)} RAM, ${formatMib(guest.private_mib)} ${how}`;
}

/** `0.9121` → `0.912 ms`, `39.41` → `39.4 ms`, `5177` → `5.18 s`. */
export function formatTime(ms: number): string {
  return ms < 1000 ? `${figures(ms)} ms` : `${figures(ms / 1000)} s`;
}

/** The range of some times: `1.04 to 1.28 ms`, `10.8 ms to 1.45 s`. */
export function formatRange(times: readonly number[]): string {
  const [least, most] = [Math.min(...times), Math.max(...times)];
  const isSameUnit = least < 1000 === most < 1000;
  const start = isSameUnit ? (formatTime(least).split(' ')[0] ?? '') : formatTime(least);
  return formatTime(least) === formatTime(most) ? formatTime(most) : `${start} to ${formatTime(most)}`;
}

function figures(value: number): string {
  return String(Number(value.toPrecision(3)));
}
