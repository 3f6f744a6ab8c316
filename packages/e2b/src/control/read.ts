import type { Static, TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { E2bError } from '../errors.ts';

/** Reads the body of a request. Unknown fields are passed over, since newer SDKs send some. */
export function bodyOf<Schema extends TSchema>(schema: Schema): (body: unknown) => Static<Schema> {
  const validator = Compile(schema);
  return (given) => {
    const body = given ?? {};
    if (validator.Check(body)) return body;
    const [problem] = validator.Errors(body);
    const where =
      problem?.instancePath === '' ? 'The body' : (problem?.instancePath ?? '').slice(1).replaceAll('/', '.');
    throw new E2bError(400, `${where} ${problem?.message ?? 'is wrong'}.`);
  };
}
