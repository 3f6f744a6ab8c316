export type RowStatus = 'pass' | 'warn' | 'fail' | 'skip';

export type Row = { id: string; status: RowStatus; detail: string; hint: string | null };

export function pass(id: string, detail: string): Row {
  return { id, status: 'pass', detail, hint: null };
}

/** Something is lost and the rest works: `hint` says what, and how to have it back. */
export function warn(id: string, detail: string, hint: string): Row {
  return { id, status: 'warn', detail, hint };
}

export function fail(id: string, detail: string, hint: string): Row {
  return { id, status: 'fail', detail, hint };
}

/** It could not be looked at from here. */
export function skip(id: string, detail: string, hint: string | null = null): Row {
  return { id, status: 'skip', detail, hint };
}
