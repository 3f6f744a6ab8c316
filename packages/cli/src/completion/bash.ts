import { flatten, type Flag, type Place, type Verb } from './verbs.ts';

/** The script for bash. It needs nothing but bash 4. */
export function bashScript(root: Verb): string {
  const verbs = flatten(root);
  return `# bash completion for forkd, made by \`forkd completion bash\`.

# The names that a running controller knows; the command line says which controller.
_forkd_names() {
  local name
  while IFS= read -r name; do
    printf '%s\\n' "\${name%%$'\\t'*}"
  done < <("\${words[0]}" __complete "$1" -- "\${words[@]:1}" 2>/dev/null)
}

# The words up to the cursor, into "words". Bash breaks them at "=" and ":" too; what has no blank before it belongs together.
_forkd_split() {
  local word before rest="$COMP_LINE"
  for word in "\${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    before="\${rest%%"$word"*}"
    if [[ -z $word ]]; then before="\${rest%%[![:blank:]]*}"; fi
    rest="\${rest#*"$word"}"
    if ((\${#words[@]})) && [[ -z $before ]]; then
      words[-1]+="$word"
    else
      words+=("$word")
    fi
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
  local -a words=()
  local IFS=$' \\t\\n' path='' place='' choices='' word cur i at=0 foreign=''
  _forkd_split
  cur="\${words[-1]}"
  for ((i = 1; i < \${#words[@]} - 1; i++)); do
    word="\${words[i]}"
    place=''
    if [[ $word == -- ]]; then
      foreign=1
      break
    elif [[ $word == --*=* ]]; then
      continue
    elif [[ $word == -* ]]; then
      _forkd_value "$path" "$word" && ((i++))
    elif ((at == 0)) && _forkd_verb "$path" "$word"; then
      continue
    else
      ((at++))
      case "$path" in ${passing(verbs)}) foreign=1 && break ;; esac
    fi
  done
  # The last option may have taken the word that is being written.
  ((i >= \${#words[@]})) || place='' choices=''
  if [[ $foreign ]]; then
    place=file
  elif [[ -z $place && $cur == --*=* ]]; then
    _forkd_value "$path" "\${cur%%=*}"
    cur="\${cur#*=}"
  elif [[ -z $place && $cur == -* ]]; then
    choices="$(_forkd_words "$path" options)"
    place=words
  elif [[ -z $place ]]; then
    choices="$(_forkd_words "$path" verbs)"
    if [[ $choices ]]; then place=words; else _forkd_argument "$path" "$at"; fi
  fi
  COMPREPLY=()
  case "$place" in
    none | '') ;;
    file) mapfile -t COMPREPLY < <(compgen -f -- "$cur") && compopt -o filenames 2>/dev/null ;;
    directory) mapfile -t COMPREPLY < <(compgen -d -- "$cur") && compopt -o filenames 2>/dev/null ;;
    words) mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$cur") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$(_forkd_names "$place")" -- "$cur") ;;
  esac
  # Words that are offered beside names or files.
  if [[ $place != words && $choices ]]; then mapfile -t -O "\${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$choices" -- "$cur"); fi
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
  if ('words' in place) return `place=words choices='${place.words.join(' ')}'`;
  return place.offers.length === 0
    ? `place=${place.completes}`
    : `place=${place.completes} choices='${place.offers.join(' ')}'`;
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
