import type { Facts } from './facts.ts';
import type { Finding } from './row.ts';

/** A row of the doctor as data: its id, and how it looks. It changes nothing on the host. */
export type Check = { id: string; look(facts: Facts): Finding | Promise<Finding> };
