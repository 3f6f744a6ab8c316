import { flatten, type Flag, type Place, type Verb } from './verbs.ts';

/** The script for fish. */
export function fishScript(root: Verb): string {
  const verbs = flatten(root);
  return `# fish completion for forkd, made by \`forkd completion fish\`.

# The names that a running controller knows; the command line says which controller.
function __forkd_names
    set -l words (commandline -opc)
    $words[1] __complete $argv[1] -- $words[2..-1] 2>/dev/null
end

# The verb that is being written, as a path, and the place that is being written at: "workspace create|0".
function __forkd_place
    set -l words (commandline -opc)
    set -l path ''
    set -l at 0
    set -l skips 0
    for word in $words[2..-1]
        if test $skips = 1
            set skips 0
            continue
        end
        if test "$word" = --
            echo foreign
            return
        end
        if string match -q -- '-*' $word
            switch "$path $word"
                case ${valueFlags(verbs)}
                    set skips 1
            end
            continue
        end
        if test $at = 0
            switch "$path $word"
${verbs.flatMap((verb) => verb.verbs.map((inner) => nextCase(verb, inner))).join('\n')}
            end
        end
        set at (math $at + 1)
        switch "$path"
            case ${verbs
              .filter((verb) => verb.passesThrough)
              .map((verb) => `'${verb.path}'`)
              .join(' ')}
                echo foreign
                return
        end
    end
    echo "$path|$at"
end

# Whether the verb is $argv[1].
function __forkd_in
    string match -q -- "$argv[1]|*" (__forkd_place)
end

# Whether the verb is $argv[1], and its argument with the number $argv[2], or a later one with +, is being written.
function __forkd_at
    set -l place (string split '|' -- (__forkd_place))
    test "$place[1]" = "$argv[1]"; or return 1
    string match -q -- '*+' $argv[2]; and test "$place[2]" -ge (string trim -r -c + -- $argv[2]); and return 0
    test "$place[2]" = "$argv[2]"
end

complete -c forkd -f
complete -c forkd -n 'test (__forkd_place) = foreign' -F
${verbs.flatMap(verbLines).join('\n')}
`;
}

function verbLines(verb: Verb): string[] {
  return [
    ...verb.verbs.flatMap((inner) => inner.names.map((name) => verbLine(verb, inner, name))),
    ...verb.flags.map((flag) => flagLine(verb, flag)),
    ...verb.args.flatMap((place, index) => argumentLine(verb, place, index)),
  ];
}

function verbLine(above: Verb, verb: Verb, name: string): string {
  return `complete -c forkd -n ${quoted(`__forkd_at '${above.path}' 0`)} -a ${quoted(name)} -d ${quoted(verb.summary)}`;
}

function flagLine(verb: Verb, flag: Flag): string {
  const spelled = `${flag.short === undefined ? '' : ` -s ${flag.short.slice(1)}`} -l ${flag.long.slice(2)}`;
  const value = flag.takesValue ? ` -r${source(flag.value)}` : '';
  return `complete -c forkd -n ${quoted(`__forkd_in '${verb.path}'`)}${spelled}${value} -d ${quoted(flag.summary)}`;
}

function argumentLine(verb: Verb, place: Place, index: number): string[] {
  if (place === undefined) return [];
  const isRest = verb.isVariadic && index === verb.args.length - 1;
  const condition = `__forkd_at '${verb.path}' ${index}${isRest ? '+' : ''}`;
  return [`complete -c forkd -n ${quoted(condition)}${source(place)}`];
}

/** Returns the options of `complete` that offer the words of a place. */
function source(place: Place): string {
  if (place === undefined) return ' -f';
  if ('words' in place) return ` -f -a ${quoted(place.words.join(' '))}`;
  const words = place.offers.length === 0 ? '' : ` -a ${quoted(place.offers.join(' '))}`;
  if (place.completes === 'file') return ` -F${words}`;
  if (place.completes === 'directory') return ` -f${words} -a '(__fish_complete_directories)'`;
  return ` -f${words} -a ${quoted(`(__forkd_names ${place.completes})`)}`;
}

function nextCase(above: Verb, verb: Verb): string {
  const spelled = verb.names.map((name) => `'${above.path} ${name}'`).join(' ');
  return `                case ${spelled}
                    set path '${verb.path}'
                    continue`;
}

function valueFlags(verbs: readonly Verb[]): string {
  const spelled = verbs.flatMap((verb) =>
    verb.flags
      .filter((flag) => flag.takesValue)
      .flatMap((flag) => [flag.short, flag.long].filter((one) => one !== undefined))
      .map((one) => `'${verb.path} ${one}'`),
  );
  return spelled.join(' ');
}

/** Quotes for fish. Within single quotes only the quote and the backslash are special. */
function quoted(text: string): string {
  return `'${text.replaceAll(/['\\]/g, '\\$&')}'`;
}
