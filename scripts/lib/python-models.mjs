/** Schemas that the document has inside of an operation, and the names that packages/api gives them. */
const inline = {
  FileStat: (document) => replyOf(document, 'statFile'),
  FileChangeEvent: (document) => itemsOf(document, 'watchFiles').anyOf[0],
  FileWatchEvent: (document) => itemsOf(document, 'watchFiles'),
  ExportSnapshotRequest: (document) => requestOf(document, 'exportSnapshot'),
  ExportSnapshotResponse: (document) => replyOf(document, 'exportSnapshot'),
  ImportSnapshotRequest: (document) => requestOf(document, 'importSnapshot'),
};

const HEADER = `"""The requests and replies of the API. Their fields are described in its reference, docs/reference/api.md.

Made by scripts/python-sdk.mjs from docs/reference/openapi.json. Not to be edited.
"""

from typing import Literal, TypeAlias, final

from typing_extensions import NotRequired, TypedDict
`;

const KEYWORDS = new Set(['from', 'class', 'import', 'global', 'pass', 'with', 'is', 'in', 'as', 'async']);

/**
 * The schemas of the document as Python types: a TypedDict for an object, an alias for everything else.
 * @param {any} document
 */
export function pythonModels(document) {
  const schemas = { ...document.components.schemas };
  for (const [name, find] of Object.entries(inline)) schemas[name] = find(document);
  const writer = new Writer(schemas);
  for (const name of Object.keys(schemas).toSorted()) writer.define(name);
  return `${HEADER}${writer.text}`;
}

/** Writes definitions in an order in which each name is defined before it is used. */
class Writer {
  text = '';
  #names = new Map();
  #schemas;

  /** @param {Record<string, any>} schemas by name */
  constructor(schemas) {
    this.#schemas = schemas;
    // A schema that stands in two places has one name.
    for (const [name, schema] of Object.entries(schemas)) this.#names.set(JSON.stringify(schema), name);
  }

  #defined = new Set();

  /** @param {string} name */
  define(name) {
    if (this.#defined.has(name)) return;
    this.#defined.add(name);
    const schema = this.#schemas[name];
    const made = schema.properties !== undefined ? this.#object(name, schema) : this.#alias(name, schema);
    this.text += `\n\n${made}`;
  }

  /** @param {string} name @param {any} schema */
  #object(name, schema) {
    const required = new Set(schema.required ?? []);
    const fields = Object.entries(schema.properties).map(([field, property]) => {
      const type = this.#type(property, `${name}${pascal(field)}`);
      return { field, property, type: required.has(field) ? type : `NotRequired[${type}]` };
    });
    if (fields.some(({ field }) => KEYWORDS.has(field))) {
      const entries = fields.map(({ field, type }) => `"${field}": ${type}`).join(', ');
      return `${name} = TypedDict("${name}", {${entries}})\n${docstring(schema)}`;
    }
    const lines = fields.map(({ field, property, type }) => `    ${field}: ${type}\n${docstring(property, '    ')}`);
    const summary = docstring(schema, '    ');
    // The final member of a union can be told from the others by its fields.
    return `@final\nclass ${name}(TypedDict):\n${summary === '' ? '' : `${summary}\n`}${lines.join('')}`;
  }

  /** @param {string} name @param {any} schema */
  #alias(name, schema) {
    return `${name}: TypeAlias = ${this.#type(schema, name, true)}\n${docstring(schema)}`;
  }

  /**
   * @param {any} schema @param {string} name of the type, if it needs one @param {boolean} [isNamed] this is its definition
   * @returns {string}
   */
  #type(schema, name, isNamed = false) {
    const known = schema.$ref?.split('/').at(-1) ?? (isNamed ? undefined : this.#names.get(JSON.stringify(schema)));
    if (known !== undefined) {
      this.define(known);
      return known;
    }
    if (schema.anyOf !== undefined) {
      const members = schema.anyOf.map((member) => this.#type(member, `${name}${pascal(discriminant(member))}`));
      return [...new Set(members)].join(' | ');
    }
    if (schema.const !== undefined) return `Literal[${JSON.stringify(schema.const)}]`.replace('[true]', '[True]');
    if (schema.enum !== undefined) return enumeration(schema.enum);
    if (Array.isArray(schema.type)) {
      return schema.type.map((type) => this.#type({ ...schema, type }, name)).join(' | ');
    }
    if (schema.type === 'object' && schema.properties !== undefined) {
      this.#schemas[name] = schema;
      this.define(name);
      return name;
    }
    return this.#simple(schema, name);
  }

  /** @param {any} schema @param {string} name */
  #simple(schema, name) {
    switch (schema.type) {
      case 'string':
        return 'str';
      case 'integer':
        return 'int';
      case 'number':
        return 'float';
      case 'boolean':
        return 'bool';
      case 'null':
        return 'None';
      case 'array':
        return `list[${this.#type(schema.items, name)}]`;
      case 'object':
        return `dict[str, ${this.#type(schema.additionalProperties, name)}]`;
      default:
        throw new Error(`${name}: the schema ${JSON.stringify(schema)} is not known.`);
    }
  }
}

/** @param {readonly unknown[]} values */
function enumeration(values) {
  const texts = values.filter((value) => value !== null).map((value) => JSON.stringify(value));
  return `Literal[${texts.join(', ')}]${values.includes(null) ? ' | None' : ''}`;
}

/** What tells an object of a union from the others: its type, or else its second required field. @param {any} schema */
function discriminant(schema) {
  const type = schema.properties?.type;
  return type?.const ?? type?.enum?.[0] ?? schema.required?.[1] ?? '';
}

/** @param {any} schema */
function docstring({ description }, indent = '') {
  if (description === undefined) return '';
  return `${indent}"""${description.replaceAll('\\', '\\\\').replaceAll(/"$/g, '\\"')}"""\n`;
}

/** @param {string} text */
function pascal(text) {
  return text.replaceAll(/(?:^|[_.-])([a-z])/g, (_, letter) => letter.toUpperCase());
}

/** @param {any} document @param {string} id */
function operation(document, id) {
  const all = Object.values(document.paths).flatMap((methods) => Object.values(methods));
  const found = all.find(({ operationId }) => operationId === id);
  if (found === undefined) throw new Error(`The document has no operation ${id}.`);
  return found;
}

/** @param {any} document @param {string} id */
function replyOf(document, id) {
  const { responses } = operation(document, id);
  return (responses['200'] ?? responses['201']).content['application/json'].schema;
}

/** @param {any} document @param {string} id */
function requestOf(document, id) {
  return operation(document, id).requestBody.content['application/json'].schema;
}

/** @param {any} document @param {string} id */
function itemsOf(document, id) {
  return operation(document, id).responses['200'].content['text/event-stream']['x-itemSchema'];
}
