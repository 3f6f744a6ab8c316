import { ApiError } from '@forkd/api';
import type { FastifySchemaCompiler, FastifyTypeProvider } from 'fastify';
import type { Static, TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { Value } from 'typebox/value';

/** Gives handlers the types of their route's schemas. */
export interface SchemaTypes extends FastifyTypeProvider {
  validator: this['schema'] extends TSchema ? Static<this['schema']> : unknown;
  serializer: this['schema'] extends TSchema ? Static<this['schema']> : unknown;
}

interface Problem {
  keyword: string;
  schemaPath: string;
  instancePath: string;
  message: string;
  params: object;
}

/**
 * Checks against the schemas of `@forkd/api`. Query parameters are text and are converted; a body is JSON and has its
 * types already: `"5"` is no number there. Fields that nobody knows are passed over, as clients of other versions send them.
 */
export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema, httpPart, method, url }) => {
  const validator = Compile(schema);
  const isText = httpPart === 'querystring' || httpPart === 'params';
  return (input: unknown) => {
    const given = input ?? {};
    const value: unknown = Value.Default(schema, isText ? Value.Convert(schema, given) : given);
    if (validator.Check(value)) return { value };
    return { error: explain(`${method} ${url}`, value, validator.Errors(value)) };
  };
};

/** Of several problems (a union lists those of each branch) the first is the one that names a field. */
function explain(route: string, value: unknown, all: readonly Problem[]): ApiError {
  // A key that cannot be is told of twice: as a problem of the value that it has, and as one of the object that it is in.
  const problems = all.filter(({ schemaPath }) => !schemaPath.endsWith('/propertyNames'));
  const first = problems.find(({ instancePath }) => instancePath !== '') ?? problems[0];
  if (first === undefined) return new ApiError('bad_request', `${route}: the request is not as it should be.`);
  const field = first.instancePath.slice(1).replaceAll('/', '.');
  const found: unknown = first.instancePath === '' ? value : Value.Pointer.Get(value, first.instancePath);
  const text = (JSON.stringify(found) ?? String(found)).slice(0, 80);
  if (first.keyword === 'pattern' && (field === 'tag' || field.endsWith('_tag') || field === 'to')) {
    return new ApiError('bad_tag', `${field}: ${text} is not a tag.`);
  }
  if (first.keyword === 'required' && 'requiredProperties' in first.params) {
    const names = String(first.params.requiredProperties);
    return new ApiError('bad_request', `${route}: ${field === '' ? '' : `${field}: `}${names} is missing.`);
  }
  // A union of words complains once about each.
  const here = problems.filter(({ instancePath }) => instancePath === first.instancePath);
  const allowed = here.flatMap(({ params }) => ('allowedValue' in params ? [JSON.stringify(params.allowedValue)] : []));
  const message = allowed.length > 0 ? `must be one of ${allowed.join(', ')}` : first.message;
  return new ApiError('bad_request', `${route}: ${field === '' ? 'the body' : field} ${message}, it is ${text}.`);
}
