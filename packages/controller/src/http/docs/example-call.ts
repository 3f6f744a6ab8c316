import type { OperationObject } from '../openapi/document.ts';

/** Longer JSON is written over several lines. */
const LINE_MAX = 80;

/** A call of the operation with curl, with the example of each required parameter and of the body. */
export function exampleCall(method: string, path: string, { parameters = [], requestBody }: OperationObject): string {
  const own = parameters.flatMap((parameter) => ('$ref' in parameter ? [] : [parameter]));
  const valueOf = (name: string) => {
    const example = own.find((parameter) => parameter.name === name)?.example;
    return typeof example === 'string' ? example : name;
  };
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => valueOf(name));
  const query = own.filter(({ in: where, required }) => where === 'query' && required);
  const asked = query.map(({ name }) => `${name}=${valueOf(name)}`).join('&');
  const verb = method === 'get' ? '' : ` -X ${method.toUpperCase()}`;
  const url = `"$FORKD_URL${filled}${asked === '' ? '' : `?${asked}`}"`;
  return [`curl${verb} ${url}`, '-H "Authorization: Bearer $FORKD_TOKEN"', ...bodyArguments(requestBody)].join(
    ' \\\n  ',
  );
}

function bodyArguments(body: OperationObject['requestBody']): string[] {
  const [mediaType, content] = Object.entries(body?.content ?? {})[0] ?? [];
  if (mediaType === undefined) return [];
  const data = mediaType === 'application/json' ? `--data ${json(content?.['example'] ?? {})}` : '--data-binary @FILE';
  return [`-H 'Content-Type: ${mediaType}'`, data];
}

/** JSON as an argument of a shell, in one line if it is short. */
function json(value: unknown): string {
  const line = JSON.stringify(value);
  return quoted(line.length <= LINE_MAX ? line : JSON.stringify(value, null, 2));
}

/** Quotes for a shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
