import { ApiError, TAG_PATTERN } from '@forkd/api';
import type { FastifySchemaCompiler, FastifyTypeProvider } from 'fastify';
import type { Static, TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { Value } from 'typebox/value';
import { excerpt, visibleStart } from './excerpt.ts';

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
 * Checks requests against the schemas of `@forkd/api`. Query parameters are text and are converted. A JSON body has its
 * types already: `"5"` is not a number there. Unknown fields are not refused here, since clients of other versions send them.
 */
export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema, httpPart, method, url }) => {
  const validator = Compile(schema);
  const isText = httpPart === 'querystring' || httpPart === 'params';
  const fields = Object.entries((schema as { properties?: Record<string, Field> }).properties ?? {});
  const route = `${method} ${url}`;
  return (input: unknown) => {
    const given = isText ? Value.Convert(schema, input ?? {}) : (input ?? {});
    const problem = tooMany(fields, given);
    if (problem !== null) return { error: new ApiError('bad_request', `${route}: ${problem}.`) };
    const value = withDefaults(fields, given);
    if (validator.Check(value)) return { value };
    return { error: explain(route, value, validator.Errors(value)) };
  };
};

/** The parts of a field's schema that are checked before its value is walked. */
interface Field {
  default?: unknown;
  maxItems?: number;
  maxProperties?: number;
  anyOf?: Field[];
}

/** Counts the items first: walking too many of them would make other callers wait too long. */
function tooMany(fields: readonly [string, Field][], given: unknown): string | null {
  if (typeof given !== 'object' || given === null) return null;
  for (const [name, field] of fields) {
    const value: unknown = (given as Record<string, unknown>)[name];
    if (typeof value !== 'object' || value === null) continue;
    const [word, bound, count] = Array.isArray(value)
      ? ['items', boundOf(field, 'maxItems'), value.length]
      : ['properties', boundOf(field, 'maxProperties'), Object.keys(value).length];
    if (count > bound) return `${name} must not have more than ${bound} ${word}, it is ${excerpt(value)}`;
  }
  return null;
}

function boundOf(field: Field, name: 'maxItems' | 'maxProperties'): number {
  return Math.min(...[field, ...(field.anyOf ?? [])].map((one) => one[name] ?? Infinity));
}

/** Only top-level fields have defaults. */
function withDefaults(fields: readonly [string, Field][], given: unknown): unknown {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return given;
  const missing = fields.filter(([name, field]) => field.default !== undefined && !Object.hasOwn(given, name));
  return { ...Object.fromEntries(missing.map(([name, field]) => [name, field.default])), ...given };
}

/** Picks the first problem that names a field. A union reports the problems of each of its branches. */
function explain(route: string, value: unknown, all: readonly Problem[]): ApiError {
  // A wrong key is reported twice: as a problem of its value, and as a problem of the object around it.
  const problems = all.filter(({ schemaPath }) => !schemaPath.endsWith('/propertyNames'));
  const first = problems.find(({ instancePath }) => instancePath !== '') ?? problems[0];
  if (first === undefined) return new ApiError('bad_request', `${route}: the request is not as it should be.`);
  const field = visibleStart(first.instancePath.slice(1).replaceAll('/', '.'));
  const found: unknown = first.instancePath === '' ? value : Value.Pointer.Get(value, first.instancePath);
  const text = excerpt(found);
  // Names have the pattern of tags, and a path may be called `to` as well.
  const isTag = 'pattern' in first.params && String(first.params.pattern) === TAG_PATTERN;
  if (isTag && (field === 'tag' || field.endsWith('_tag') || field === 'to')) {
    return new ApiError('bad_tag', `${field}: ${text} is not a tag.`);
  }
  if (first.keyword === 'required' && 'requiredProperties' in first.params) {
    const names = String(first.params.requiredProperties);
    return new ApiError('bad_request', `${route}: ${field === '' ? '' : `${field}: `}${names} is missing.`);
  }
  // A union of words reports one problem per word.
  const here = problems.filter(({ instancePath }) => instancePath === first.instancePath);
  const allowed = here.flatMap(({ params }) => ('allowedValue' in params ? [JSON.stringify(params.allowedValue)] : []));
  const message = allowed.length > 0 ? `must be one of ${allowed.join(', ')}` : first.message;
  return new ApiError('bad_request', `${route}: ${field === '' ? 'the body' : field} ${message}, it is ${text}.`);
}
