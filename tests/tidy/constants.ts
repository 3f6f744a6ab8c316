import { type ESTree, parseSync } from 'rolldown/utils';
import { textOf } from './files.ts';

/** A constant at the top level of a file whose value is a number, a string or a boolean. */
export interface Constant {
  file: string;
  line: number;
  name: string;
}

/** The primitive constants of a file, as far as the file itself says what they are. */
export function constantsOf(file: string, text = textOf(file)): Constant[] {
  const primitives = new Set<string>();
  const constants: Constant[] = [];
  for (const statement of parseSync(file, text).program.body) {
    const declaration = statement.type === 'ExportNamedDeclaration' ? statement.declaration : statement;
    if (declaration?.type !== 'VariableDeclaration' || declaration.kind !== 'const') continue;
    for (const { id, init } of declaration.declarations) {
      if (id.type !== 'Identifier' || init === null || !isPrimitive(init, primitives)) continue;
      primitives.add(id.name);
      constants.push({ file, line: text.slice(0, id.start).split('\n').length, name: id.name });
    }
  }
  return constants;
}

/** Whether an expression is made of literals and of the primitives above it. */
function isPrimitive(node: ESTree.Node, primitives: ReadonlySet<string>): boolean {
  const are = (...nodes: readonly ESTree.Node[]) => nodes.every((each) => isPrimitive(each, primitives));
  switch (node.type) {
    case 'Literal':
      return ['number', 'string', 'boolean', 'bigint'].includes(typeof node.value);
    case 'Identifier':
      return primitives.has(node.name);
    case 'TemplateLiteral':
      return are(...node.expressions);
    case 'UnaryExpression':
      return are(node.argument);
    case 'BinaryExpression':
      return are(node.left, node.right);
    case 'ParenthesizedExpression':
    case 'TSAsExpression':
      return are(node.expression);
    default:
      return false;
  }
}
