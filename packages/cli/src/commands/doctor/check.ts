import type { Facts } from './facts.ts';
import type { Finding } from './row.ts';

/** A row of the doctor as data: its id, and the function that examines the host. The function changes nothing. */
export interface Check {
  id: string;
  look(facts: Facts): Finding | Promise<Finding>;
}
