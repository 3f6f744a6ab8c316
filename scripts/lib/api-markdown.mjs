// The API document as a page of Markdown: one table of routes a part, then each route with what it takes and answers.

/** @typedef {Record<string, any>} Json */

/** @param {Json} document @returns {string} */
export function apiMarkdown(document) {
  const all = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
  );
  const parts = document.tags.map(({ name, description }) => {
    const routes = all.filter(({ operation }) => operation.tags.includes(name));
    const sections = routes.map((route) => routeOf(route, document.components.responses));
    return `## ${title(name)}\n\n${description}\n\n${overview(routes)}\n\n${sections.join('\n\n')}`;
  });
  const types = Object.entries(document.components.schemas).map(([name, schema]) => typeSection(name, schema));
  return `${[intro(document), ...parts, `## Types\n\n${types.join('\n\n')}`].join('\n\n')}\n`;
}

/** @param {Json} document */
function intro({ info }) {
  return `# API ${info.version}

Made from the controller by \`node scripts/openapi.mjs\`; [openapi.json](openapi.json) is the same for programs, and a controller
answers \`GET /openapi.json\` and, for people, \`GET /docs\`.

Bodies are JSON unless said otherwise. On TCP each request but \`GET /healthz\` carries \`Authorization: Bearer TOKEN\`. Each reply has
the header \`x-request-id\`. Each error is an [ErrorBody](#errorbody): one sentence, a stable code, and what to do.`;
}

/** @param {string} name */
function title(name) {
  return name[0].toUpperCase() + name.slice(1);
}

/** @param {{ path: string, method: string, operation: Json }[]} routes */
function overview(routes) {
  const rows = routes.map(
    ({ path, method, operation }) =>
      `| [\`${method} ${path}\`](#${operation.operationId.toLowerCase()}) | ${cell(operation.summary)} |`,
  );
  return ['| route | |', '| --- | --- |', ...rows].join('\n');
}

/** @param {{ path: string, method: string, operation: Json }} route @param {Json} shared responses, by name */
function routeOf({ path, method, operation }, shared) {
  const { operationId, summary, description, parameters = [], requestBody, responses } = operation;
  const said = [`### ${operationId}`, `\`${method} ${path}\``, summary];
  if (description) said.push(description);
  const own = parameters.filter((parameter) => !parameter.$ref);
  if (own.length > 0) said.push(parameterTable(own));
  if (requestBody) said.push(`Body${requestBody.required ? '' : ' (optional)'}: ${contentOf(requestBody)}`);
  said.push(replyTable(responses, shared));
  return said.join('\n\n');
}

/** @param {Json[]} parameters */
function parameterTable(parameters) {
  const rows = parameters.map(({ name, in: where, required, schema, description = '' }) => {
    return `| \`${name}\`${required ? ' *' : ''} | ${where} | ${typeOf(schema)} | ${cell(description)} |`;
  });
  return ['| parameter | in | type | |', '| --- | --- | --- | --- |', ...rows].join('\n');
}

/** @param {Json} responses @param {Json} shared */
function replyTable(responses, shared) {
  const rows = Object.entries(responses).map(([status, given]) => {
    const response = given.$ref ? shared[given.$ref.split('/').at(-1)] : given;
    if (Number(status) < 400) return `| ${status} | ${cell(`${response.description} ${contentOf(response)}`)} |`;
    const [, { properties }] = response.content['application/json'].schema.allOf;
    return `| ${status} | ${properties.code.enum.map((code) => `\`${code}\``).join(' ')} |`;
  });
  return ['| status | |', '| --- | --- |', ...rows].join('\n');
}

/** @param {Json} holder of a content */
function contentOf({ content = {}, description = '' }) {
  const said = Object.entries(content).map(([mediaType, { schema, 'x-itemSchema': item }]) => {
    if (item) return `a stream of ${typeOf(item)} (${mediaType})`;
    if (!schema) return `${description} (${mediaType})`;
    return typeOf(schema);
  });
  return said.join(', ');
}

/** @param {string} name @param {Json} schema */
function typeSection(name, schema) {
  const head = `### ${name}`;
  if (!schema.properties) return `${head}\n\n${typeOf(schema)}`;
  return [head, ...(schema.description ? [schema.description] : []), fieldTable(schema)].join('\n\n');
}

/** @param {Json} schema */
function fieldTable({ properties, required = [] }) {
  const rows = Object.entries(properties).map(([name, value]) => {
    return `| \`${name}\`${required.includes(name) ? ' *' : ''} | ${typeOf(value)} | ${cell(value.description ?? '')} |`;
  });
  return ['| field | type | |', '| --- | --- | --- |', ...rows].join('\n');
}

const bounds = {
  minimum: '≥',
  maximum: '≤',
  exclusiveMinimum: '>',
  minLength: 'characters ≥',
  maxLength: 'characters ≤',
  minItems: 'items ≥',
  maxItems: 'items ≤',
  maxProperties: 'keys ≤',
  default: 'default',
};

/** @param {Json} schema @returns {string} */
function typeOf(schema) {
  const said = Object.entries(bounds).flatMap(([keyword, word]) =>
    schema[keyword] === undefined ? [] : [`${word} ${schema[keyword]}`],
  );
  if (schema.pattern) said.push(`\`${schema.pattern.replaceAll('|', '\\|')}\``);
  return `${shapeOf(schema)}${said.length > 0 ? ` (${said.join(', ')})` : ''}`;
}

/** @param {Json} schema @returns {string} */
function shapeOf({
  $ref: ref,
  anyOf,
  enum: words,
  const: word,
  items,
  additionalProperties: values,
  properties,
  type,
}) {
  if (ref) {
    const name = ref.split('/').at(-1);
    return `[${name}](#${name.toLowerCase()})`;
  }
  if (anyOf) return anyOf.map(typeOf).join(' or ');
  if (words) return words.map((one) => `\`${JSON.stringify(one)}\``).join(' ');
  if (word !== undefined) return `\`${JSON.stringify(word)}\``;
  if (items) return `array of ${typeOf(items)}`;
  if (typeof values === 'object') return `map of ${typeOf(values)}`;
  if (properties)
    return `{ ${Object.entries(properties)
      .map(([name, value]) => `${name}: ${typeOf(value)}`)
      .join(', ')} }`;
  return [type ?? 'anything'].flat().join(' or ');
}

/** @param {string} text */
function cell(text) {
  return text.replaceAll('\n', ' ').replaceAll('|', '\\|').trim();
}
