import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import { Busboy, type BusboyHeaders, type BusboyInstance } from '@fastify/busboy';
import { E2bError } from '../errors.ts';
import { limits } from '../limits.ts';

/** Reads the files of a form. `save` is given each file in turn, with the whole name that the client gave it. */
export async function readForm(
  headers: IncomingHttpHeaders,
  body: Readable,
  save: (name: string, data: Readable) => Promise<void>,
): Promise<void> {
  const form = openForm(headers);
  /** The files are saved one after the other: the form is not read on before. */
  let saving: Promise<void> = Promise.resolve();
  await new Promise<void>((resolve, reject) => {
    const fail = (error: unknown): void => {
      body.unpipe(form);
      // The rest is received and discarded, so that its sender reads the reason.
      body.resume();
      reject(error instanceof Error ? error : new Error(String(error)));
    };
    form.on('file', (field, data, name) => {
      if (field !== 'file') {
        data.resume();
        return;
      }
      // A part whose connection breaks fails with the form, too.
      data.on('error', () => undefined);
      saving = saving.then(() => save(name, data));
      saving.catch(fail);
    });
    form.on('filesLimit', () => fail(new E2bError(400, `An upload has more than ${limits.uploadFilesMax} files.`)));
    form.on('error', (error: unknown) => fail(new E2bError(400, `The form cannot be read: ${String(error)}.`)));
    form.on('finish', () => resolve());
    body.on('error', fail);
    body.pipe(form);
  });
  await saving;
}

function openForm(headers: IncomingHttpHeaders): BusboyInstance {
  try {
    return new Busboy({
      headers: headers as BusboyHeaders,
      preservePath: true,
      limits: { files: limits.uploadFilesMax, fields: 16, fieldSize: 4096, headerPairs: 32 },
    });
  } catch (error) {
    throw new E2bError(400, `The form cannot be read: ${String(error)}.`);
  }
}
