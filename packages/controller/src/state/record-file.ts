import { readCapped } from '@forkd/store';
import { limits } from '../limits.ts';

/** A schema that is compiled. */
interface Validator<Record> {
  Check(value: unknown): value is Record;
}

/**
 * The record in a file; `null` if it is missing, torn, too long, or of another schema. `upgrade` makes a record of an earlier
 * format one of the newest.
 */
export async function readRecordFile<Record>(
  path: string,
  validator: Validator<Record>,
  upgrade: (value: unknown) => unknown = (value) => value,
): Promise<Record | null> {
  try {
    const bytes = await readCapped(path, limits.recordBytesMax, () => new Error('too long'));
    const value = bytes === null ? null : upgrade(JSON.parse(bytes.toString('utf8')));
    return validator.Check(value) ? value : null;
  } catch {
    return null;
  }
}
