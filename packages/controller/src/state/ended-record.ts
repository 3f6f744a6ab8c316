import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { SandboxInfo } from '@forkd/api';
import { removeFile, writeFileAtomic } from '@forkd/store';
import { Type, type Static } from 'typebox';
import { Compile } from 'typebox/compile';
import { readRecordFile } from './record-file.ts';

/** The file of a sandbox that has ended: `ended/<id>.json`. */
export const EndedRecord = Type.Object({
  format: Type.Literal(1),
  /** Grows with each sandbox that ends. */
  number: Type.Integer({ minimum: 1 }),
  /** The description of the sandbox, with the time, the reason and the message of its end. */
  sandbox: Type.Intersect([
    SandboxInfo,
    Type.Required(Type.Pick(SandboxInfo, ['ended_at_unix', 'end_reason', 'end_message'])),
  ]),
  /** The hint of the error for later requests. */
  hint: Type.String(),
});
export type EndedRecord = Static<typeof EndedRecord>;

const validator = Compile(EndedRecord);
const SUFFIX = '.json';

const pathOf = (dir: string, id: string) => join(dir, `${id}${SUFFIX}`);

export async function writeEnded(dir: string, record: EndedRecord): Promise<void> {
  await writeFileAtomic(pathOf(dir, record.sandbox.id), `${JSON.stringify(record)}\n`);
}

export async function removeEnded(dir: string, id: string): Promise<void> {
  await removeFile(pathOf(dir, id));
}

/**
 * Reads what earlier controllers kept, oldest first. Files that cannot be read are removed and their names returned: a crash
 * or a full disk may have cut them, and nothing depends on them.
 */
export async function readEnded(dir: string): Promise<{ records: EndedRecord[]; unreadable: string[] }> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const records: EndedRecord[] = [];
  const unreadable: string[] = [];
  for (const file of await readdir(dir)) {
    const record = await readRecordFile(join(dir, file), validator);
    if (record !== null && file === `${record.sandbox.id}${SUFFIX}`) {
      records.push(record);
      continue;
    }
    // A file whose name starts with a dot was never complete.
    if (!file.startsWith('.')) unreadable.push(file);
    await removeFile(join(dir, file)).catch(() => undefined);
  }
  records.sort((one, other) => one.number - other.number);
  return { records, unreadable };
}
