/** `1536` → `1.5 GiB`. */
export function formatMib(mib: number): string {
  return mib >= 1024 ? `${Number((mib / 1024).toPrecision(3))} GiB` : `${mib} MiB`;
}

/** Describes the kind of guest. */
export function guestName(guest: { mem_mib: number; private_mib: number; storm: boolean }): string {
  const how = guest.storm ? 'rewritten' : 'written once';
  return `${formatMib(guest.mem_mib)} RAM, ${formatMib(guest.private_mib)} ${how}`;
}
