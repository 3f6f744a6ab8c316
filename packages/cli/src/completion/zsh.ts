import type { Completes } from '../command.ts';
import { flatten, type Flag, type Place, type Verb } from './verbs.ts';

/** The script for zsh. Install it as `_forkd` in a directory of fpath, or source it after compinit. */
export function zshScript(root: Verb): string {
  return `#compdef forkd
# zsh completion for forkd, made by \`forkd completion zsh\`.

# The names that a running controller knows; the command line says which controller.
_forkd_names() {
  local -a names
  local tab=$'\\t'
  names=(\${(f)"$($_forkd_line[1] __complete $1 -- $_forkd_line[2,-1] 2>/dev/null)"})
  names=(\${names/$tab/:})
  _describe -t $1 $1 names
}

${flatten(root).map(verbFunction).join('\n\n')}

# The line is kept: what is below the verb sees only its own part.
_forkd() {
  local -a _forkd_line=($words)
  _forkd_root
}

if [ "$funcstack[1]" = _forkd ]; then
  _forkd "$@"
else
  compdef _forkd forkd
fi
`;
}

function verbFunction(verb: Verb): string {
  const specs = [...verb.flags.map(flagSpec), ...argumentSpecs(verb)];
  const body = verb.verbs.length === 0 ? leaf(verb, specs) : group(verb, specs);
  return `${functionName(verb)}() {\n${body}\n}`;
}

function leaf(verb: Verb, specs: readonly string[]): string {
  // Options after the first argument of such a verb belong to the command in the guest.
  const ends = verb.passesThrough ? ` -A '-*'` : '';
  return `  _arguments -s -S${ends} ${specs.map((spec) => `\\\n    ${spec}`).join(' ')}`;
}

function group(verb: Verb, specs: readonly string[]): string {
  const verbs = verb.verbs.flatMap((inner) => inner.names.map((name) => `    ${quoted(`${name}:${inner.summary}`)}`));
  const cases = verb.verbs.map((inner) => `        ${inner.names.join('|')}) ${functionName(inner)} ;;`);
  return `  local context state state_descr line curcontext="$curcontext"
  local -A opt_args
  local -a verbs=(
${verbs.join('\n')}
  )
  _arguments -C -s -S ${specs.map((spec) => `\\\n    ${spec}`).join(' ')} \\
    '1: :->verb' '*:: :->rest'
  case $state in
    verb) _describe -t verbs verb verbs ;;
    rest)
      case $words[1] in
${cases.join('\n')}
      esac
      ;;
  esac`;
}

function flagSpec(flag: Flag): string {
  const about = `[${flag.summary.replaceAll(/[[\]\\]/g, '\\$&').replaceAll(':', '\\:')}]`;
  const value = flag.takesValue ? `:value:${action(flag.value)}` : '';
  const long = `${flag.long}${flag.takesValue ? '=' : ''}`;
  if (flag.short === undefined) return quoted(`*${long}${about}${value}`);
  const short = `${flag.short}${flag.takesValue ? '+' : ''}`;
  return `'*'{${short},${long}}${quoted(about + value)}`;
}

function argumentSpecs(verb: Verb): string[] {
  if (verb.passesThrough) {
    const first = verb.args.length > 1 ? [quoted(`1: :${action(verb.args[0])}`)] : [];
    return [...first, quoted('*:: :_normal')];
  }
  return verb.args.map((place, index) => {
    const position = verb.isVariadic && index === verb.args.length - 1 ? '*' : String(index + 1);
    return quoted(`${position}: :${action(place)}`);
  });
}

function action(place: Place): string {
  if (place === undefined) return ' ';
  if ('words' in place) return `(${place.words.join(' ')})`;
  const named = namesOrFiles(place.completes);
  if (place.offers.length === 0) return named;
  return ` _alternative "words\\:word\\:(${place.offers.join(' ')})" "names\\:name\\:${named}"`;
}

function namesOrFiles(completes: Completes): string {
  if (completes === 'file') return '_files';
  // The leading blank makes zsh call the function with these arguments only.
  return completes === 'directory' ? '_files -/' : ` _forkd_names ${completes}`;
}

function functionName(verb: Verb): string {
  return verb.path === '' ? '_forkd_root' : `_forkd_${verb.path.replaceAll(/[ -]/g, '_')}`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
