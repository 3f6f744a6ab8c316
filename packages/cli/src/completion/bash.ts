import { flatten, type Flag, type Place, type Verb } from './verbs.ts';

/** The script for bash. It needs nothing but bash 4. */
export function bashScript(root: Verb): string {
  const verbs = flatten(root);
  return `# bash completion for forkd, made by \`forkd completion bash\`.

# The names that a running controller knows. "$@" is the command line, which says which controller.
_forkd_names() {
  local IFS=$'\\n' name
  for name in $("\${COMP_WORDS[0]}" __complete "$1" -- "\${COMP_WORDS[@]:1}" 2>/dev/null); do
    printf '%s\\n' "\${name%%$'\\t'*}"
  done
}

# The verb that $2 stands for after $1.
_forkd_verb() {
  case "$1 $2" in
${verbs.flatMap((verb) => verb.verbs.map((inner) => `    ${spellings(verb, inner)}) path='${inner.path}' ;;`)).join('\n')}
    *) return 1 ;;
  esac
}

# What the value of the option $2 of the verb $1 may be; fails where it has none.
_forkd_value() {
  case "$1 $2" in
${verbs.flatMap((verb) => verb.flags.filter((flag) => flag.takesValue).map((flag) => valueCase(verb, flag))).join('\n')}
    *) return 1 ;;
  esac
}

# What may stand at the place $2 of the verb $1.
_forkd_argument() {
  case "$1 $2" in
${verbs.flatMap(argumentCases).join('\n')}
    *) place=none ;;
  esac
}

# The options of the verb $1, or with "verbs" the verbs below it.
_forkd_words() {
  case "$1 $2" in
${verbs.flatMap(wordCases).join('\n')}
  esac
}

_forkd() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" path='' place='' words='' word i at=0 foreign='' IFS=$' \\t\\n'
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="\${COMP_WORDS[i]}"
    if [[ $word == -- ]]; then
      foreign=1
      break
    elif [[ $word == -* ]]; then
      _forkd_value "$path" "$word" || continue
      [[ \${COMP_WORDS[i + 1]} == '=' ]] && ((i++))
      ((i++))
      if ((i >= COMP_CWORD)); then
        [[ $cur == '=' ]] && cur=''
        break
      fi
      place=''
    elif ((at == 0)) && _forkd_verb "$path" "$word"; then
      continue
    else
      ((at++))
      case "$path" in ${passing(verbs)}) foreign=1 && break ;; esac
    fi
  done
  COMPREPLY=()
  if [[ $foreign ]]; then
    place=file
  elif [[ $cur == -* && -z $place ]]; then
    words="$(_forkd_words "$path" options)"
    place=words
  elif [[ -z $place ]]; then
    words="$(_forkd_words "$path" verbs)"
    if [[ $words ]]; then place=words; else _forkd_argument "$path" "$at"; fi
  fi
  case "$place" in
    none) ;;
    file) mapfile -t COMPREPLY < <(compgen -f -- "$cur") && compopt -o filenames 2>/dev/null ;;
    directory) mapfile -t COMPREPLY < <(compgen -d -- "$cur") && compopt -o filenames 2>/dev/null ;;
    words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$(_forkd_names "$place")" -- "$cur") ;;
  esac
}

complete -F _forkd forkd
`;
}

function spellings(above: Verb, verb: Verb): string {
  return verb.names.map((name) => `'${above.path} ${name}'`).join(' | ');
}

function valueCase(verb: Verb, flag: Flag): string {
  const spelled = [flag.short, flag.long].filter((one) => one !== undefined);
  return `    ${spelled.map((one) => `'${verb.path} ${one}'`).join(' | ')}) ${setPlace(flag.value)} ;;`;
}

function argumentCases(verb: Verb): string[] {
  return verb.args.flatMap((place, index) => {
    if (place === undefined) return [];
    const isRest = verb.isVariadic && index === verb.args.length - 1;
    const pattern = isRest ? `'${verb.path} '*` : `'${verb.path} ${index}'`;
    return [`    ${pattern}) ${setPlace(place)} ;;`];
  });
}

function setPlace(place: Place): string {
  if (place === undefined) return 'place=none';
  return 'words' in place ? `place=words words='${place.words.join(' ')}'` : `place=${place.completes}`;
}

function wordCases(verb: Verb): string[] {
  const flags = verb.flags.flatMap((flag) => (flag.short === undefined ? [flag.long] : [flag.short, flag.long]));
  const cases = [`    '${verb.path} options') echo '${flags.join(' ')}' ;;`];
  const names = verb.verbs.flatMap((inner) => inner.names);
  if (names.length > 0) cases.push(`    '${verb.path} verbs') echo '${names.join(' ')}' ;;`);
  return cases;
}

function passing(verbs: readonly Verb[]): string {
  return verbs
    .filter((verb) => verb.passesThrough)
    .map((verb) => `'${verb.path}'`)
    .join(' | ');
}
