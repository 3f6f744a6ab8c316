/** The states that may follow each state. */
export type Transitions<State extends string> = Readonly<Record<State, readonly State[]>>;

/** Asserts that `to` may follow `from`. An edge that is not in the table is a bug, never a user's mistake. */
export function assertTransition<State extends string>(
  table: Transitions<State>,
  what: string,
  from: State,
  to: State,
): void {
  if (!table[from].includes(to)) throw new Error(`${what} cannot go from ${from} to ${to}`);
}
