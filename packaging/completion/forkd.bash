# bash completion for forkd, made by `forkd completion bash`.

# The names that a running controller knows; the command line says which controller.
_forkd_names() {
  local name
  while IFS= read -r name; do
    printf '%s\n' "${name%%$'\t'*}"
  done < <("${words[0]}" __complete "$1" -- "${words[@]:1}" 2>/dev/null)
}

# The words up to the cursor, into "words". Bash breaks them at "=" and ":" too; what has no blank before it belongs together.
_forkd_split() {
  local word before rest="$COMP_LINE"
  for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    before="${rest%%"$word"*}"
    if [[ -z $word ]]; then before="${rest%%[![:blank:]]*}"; fi
    rest="${rest#*"$word"}"
    if ((${#words[@]})) && [[ -z $before ]]; then
      words[-1]+="$word"
    else
      words+=("$word")
    fi
  done
}

# The verb that $2 stands for after $1.
_forkd_verb() {
  case "$1 $2" in
    ' quickstart') path='quickstart' ;;
    ' run') path='run' ;;
    ' from-image') path='from-image' ;;
    ' rebuild') path='rebuild' ;;
    ' snapshot') path='snapshot' ;;
    ' snapshot-diff') path='snapshot-diff' ;;
    ' images') path='images' ;;
    ' snapshot-info') path='snapshot-info' ;;
    ' snapshot-compact') path='snapshot-compact' ;;
    ' rmi') path='rmi' ;;
    ' prune') path='prune' ;;
    ' fork' | ' spawn') path='fork' ;;
    ' ls' | ' ps') path='ls' ;;
    ' update') path='update' ;;
    ' pause') path='pause' ;;
    ' resume') path='resume' ;;
    ' net') path='net' ;;
    ' kill') path='kill' ;;
    ' exec') path='exec' ;;
    ' shell') path='shell' ;;
    ' attach') path='attach' ;;
    ' eval') path='eval' ;;
    ' cp') path='cp' ;;
    ' files') path='files' ;;
    ' ping') path='ping' ;;
    ' port') path='port' ;;
    ' logs') path='logs' ;;
    ' workspace' | ' ws') path='workspace' ;;
    ' tree') path='tree' ;;
    ' inspect') path='inspect' ;;
    ' stats') path='stats' ;;
    ' events') path='events' ;;
    ' mcp') path='mcp' ;;
    ' doctor') path='doctor' ;;
    ' cleanup') path='cleanup' ;;
    ' stop') path='stop' ;;
    ' version') path='version' ;;
    ' completion') path='completion' ;;
    ' bench') path='bench' ;;
    ' wp-bench') path='wp-bench' ;;
    'snapshot export') path='snapshot export' ;;
    'snapshot import') path='snapshot import' ;;
    'net log') path='net log' ;;
    'net presets') path='net presets' ;;
    'files stat') path='files stat' ;;
    'files mkdir') path='files mkdir' ;;
    'files mv') path='files mv' ;;
    'files watch') path='files watch' ;;
    'workspace create') path='workspace create' ;;
    'workspace suspend') path='workspace suspend' ;;
    'workspace resume') path='workspace resume' ;;
    'workspace list' | 'workspace ls') path='workspace list' ;;
    'workspace get') path='workspace get' ;;
    'workspace delete' | 'workspace rm') path='workspace delete' ;;
    'bench branch') path='bench branch' ;;
    'bench fork') path='bench fork' ;;
    'bench chain') path='bench chain' ;;
    'bench disk') path='bench disk' ;;
    'bench exec') path='bench exec' ;;
    'bench load') path='bench load' ;;
    'bench soak') path='bench soak' ;;
    'bench torture') path='bench torture' ;;
    *) return 1 ;;
  esac
}

# What the value of the option $2 of the verb $1 may be; fails where it has none.
_forkd_value() {
  case "$1 $2" in
    ' --daemon-url') place=none ;;
    ' --daemon-token') place=none ;;
    ' --data-dir') place=directory ;;
    'quickstart --json') place=file ;;
    'quickstart --daemon-url') place=none ;;
    'quickstart --daemon-token') place=none ;;
    'quickstart --data-dir') place=directory ;;
    'run --tag') place=snapshot ;;
    'run --name') place=none ;;
    'run -e' | 'run --env') place=none ;;
    'run -w' | 'run --workdir') place=none ;;
    'run -u' | 'run --user') place=none ;;
    'run --timeout') place=none ;;
    'run --memory-limit-mib') place=none ;;
    'run --label') place=none ;;
    'run --net') place=words choices='none all' ;;
    'run --allow') place=none ;;
    'run --deny') place=none ;;
    'run --daemon-url') place=none ;;
    'run --daemon-token') place=none ;;
    'run --data-dir') place=directory ;;
    'from-image --tag') place=none ;;
    'from-image --kernel') place=file ;;
    'from-image --warm') place=none ;;
    'from-image --warm-file') place=file ;;
    'from-image --mem-mib') place=none ;;
    'from-image --boot-wait-secs') place=none ;;
    'from-image --net') place=words choices='none all' ;;
    'from-image --allow') place=none ;;
    'from-image --deny') place=none ;;
    'from-image --warm-net') place=none ;;
    'from-image --tap') place=none ;;
    'from-image --vcpus') place=none ;;
    'from-image --disk-gib') place=none ;;
    'from-image --cpu-model') place=words choices='host x86-64-v2' ;;
    'from-image -e' | 'from-image --env') place=none ;;
    'from-image --copy') place=none ;;
    'from-image --package') place=none ;;
    'from-image --daemon-url') place=none ;;
    'from-image --daemon-token') place=none ;;
    'from-image --data-dir') place=directory ;;
    'rebuild --daemon-url') place=none ;;
    'rebuild --daemon-token') place=none ;;
    'rebuild --data-dir') place=directory ;;
    'snapshot --tag') place=none ;;
    'snapshot --from-sandbox') place=sandbox ;;
    'snapshot --until') place=words choices='resumed ready durable' ;;
    'snapshot --safety') place=words choices='standard strict' ;;
    'snapshot --kernel') place=file ;;
    'snapshot --rootfs') place=file ;;
    'snapshot --warm') place=none ;;
    'snapshot --warm-file') place=file ;;
    'snapshot --mem-mib') place=none ;;
    'snapshot --boot-wait-secs') place=none ;;
    'snapshot --net') place=words choices='none all' ;;
    'snapshot --allow') place=none ;;
    'snapshot --deny') place=none ;;
    'snapshot --warm-net') place=none ;;
    'snapshot --tap') place=none ;;
    'snapshot --vcpus') place=none ;;
    'snapshot --disk-gib') place=none ;;
    'snapshot --cpu-model') place=words choices='host x86-64-v2' ;;
    'snapshot --daemon-url') place=none ;;
    'snapshot --daemon-token') place=none ;;
    'snapshot --data-dir') place=directory ;;
    'snapshot export --format') place=words choices='firecracker' ;;
    'snapshot export --daemon-url') place=none ;;
    'snapshot export --daemon-token') place=none ;;
    'snapshot export --data-dir') place=directory ;;
    'snapshot import --format') place=words choices='firecracker' ;;
    'snapshot import --rootfs') place=file ;;
    'snapshot import --vcpus') place=none ;;
    'snapshot import --daemon-url') place=none ;;
    'snapshot import --daemon-token') place=none ;;
    'snapshot import --data-dir') place=directory ;;
    'snapshot-diff --from') place=snapshot ;;
    'snapshot-diff --tag') place=none ;;
    'snapshot-diff --exec') place=none ;;
    'snapshot-diff --exec-timeout') place=none ;;
    'snapshot-diff --daemon-url') place=none ;;
    'snapshot-diff --daemon-token') place=none ;;
    'snapshot-diff --data-dir') place=directory ;;
    'images --daemon-url') place=none ;;
    'images --daemon-token') place=none ;;
    'images --data-dir') place=directory ;;
    'snapshot-info --daemon-url') place=none ;;
    'snapshot-info --daemon-token') place=none ;;
    'snapshot-info --data-dir') place=directory ;;
    'snapshot-compact --from') place=snapshot ;;
    'snapshot-compact --to') place=none ;;
    'snapshot-compact --daemon-url') place=none ;;
    'snapshot-compact --daemon-token') place=none ;;
    'snapshot-compact --data-dir') place=directory ;;
    'rmi --daemon-url') place=none ;;
    'rmi --daemon-token') place=none ;;
    'rmi --data-dir') place=directory ;;
    'prune --older-than') place=none ;;
    'prune --keep') place=none ;;
    'prune --daemon-url') place=none ;;
    'prune --daemon-token') place=none ;;
    'prune --data-dir') place=directory ;;
    'fork --tag') place=snapshot ;;
    'fork -n' | 'fork --count') place=none ;;
    'fork --name') place=none ;;
    'fork --memory-limit-mib') place=none ;;
    'fork --label') place=none ;;
    'fork --net') place=words choices='none all' ;;
    'fork --allow') place=none ;;
    'fork --deny') place=none ;;
    'fork --ttl') place=none ;;
    'fork --on-expire') place=words choices='kill pause' ;;
    'fork --safety') place=words choices='standard strict' ;;
    'fork --settle-secs') place=none ;;
    'fork --agent-address') place=none ;;
    'fork --daemon-url') place=none ;;
    'fork --daemon-token') place=none ;;
    'fork --data-dir') place=directory ;;
    'ls --label') place=none ;;
    'ls --name') place=sandbox ;;
    'ls --state') place=words choices='running paused ended' ;;
    'ls --tag') place=snapshot ;;
    'ls --daemon-url') place=none ;;
    'ls --daemon-token') place=none ;;
    'ls --data-dir') place=directory ;;
    'update --name') place=none ;;
    'update --label') place=none ;;
    'update --remove-label') place=none ;;
    'update --ttl') place=none ;;
    'update --on-expire') place=words choices='kill pause' ;;
    'update --daemon-url') place=none ;;
    'update --daemon-token') place=none ;;
    'update --data-dir') place=directory ;;
    'pause --daemon-url') place=none ;;
    'pause --daemon-token') place=none ;;
    'pause --data-dir') place=directory ;;
    'resume --daemon-url') place=none ;;
    'resume --daemon-token') place=none ;;
    'resume --data-dir') place=directory ;;
    'net --net') place=words choices='none all' ;;
    'net --allow') place=none ;;
    'net --deny') place=none ;;
    'net --daemon-url') place=none ;;
    'net --daemon-token') place=none ;;
    'net --data-dir') place=directory ;;
    'net log --sandbox') place=sandbox ;;
    'net log --daemon-url') place=none ;;
    'net log --daemon-token') place=none ;;
    'net log --data-dir') place=directory ;;
    'net presets --daemon-url') place=none ;;
    'net presets --daemon-token') place=none ;;
    'net presets --data-dir') place=directory ;;
    'kill --tag') place=snapshot ;;
    'kill --label') place=none ;;
    'kill --daemon-url') place=none ;;
    'kill --daemon-token') place=none ;;
    'kill --data-dir') place=directory ;;
    'exec -e' | 'exec --env') place=none ;;
    'exec -w' | 'exec --workdir') place=none ;;
    'exec -u' | 'exec --user') place=none ;;
    'exec --timeout') place=none ;;
    'exec --detach-keys') place=none ;;
    'exec --daemon-url') place=none ;;
    'exec --daemon-token') place=none ;;
    'exec --data-dir') place=directory ;;
    'shell -e' | 'shell --env') place=none ;;
    'shell -w' | 'shell --workdir') place=none ;;
    'shell -u' | 'shell --user') place=none ;;
    'shell --detach-keys') place=none ;;
    'shell --daemon-url') place=none ;;
    'shell --daemon-token') place=none ;;
    'shell --data-dir') place=directory ;;
    'attach --from-offset') place=none ;;
    'attach --detach-keys') place=none ;;
    'attach --daemon-url') place=none ;;
    'attach --daemon-token') place=none ;;
    'attach --data-dir') place=directory ;;
    'eval --timeout') place=none ;;
    'eval --daemon-url') place=none ;;
    'eval --daemon-token') place=none ;;
    'eval --data-dir') place=directory ;;
    'cp --daemon-url') place=none ;;
    'cp --daemon-token') place=none ;;
    'cp --data-dir') place=directory ;;
    'files --daemon-url') place=none ;;
    'files --daemon-token') place=none ;;
    'files --data-dir') place=directory ;;
    'files stat --daemon-url') place=none ;;
    'files stat --daemon-token') place=none ;;
    'files stat --data-dir') place=directory ;;
    'files mkdir -m' | 'files mkdir --mode') place=none ;;
    'files mkdir --daemon-url') place=none ;;
    'files mkdir --daemon-token') place=none ;;
    'files mkdir --data-dir') place=directory ;;
    'files mv --daemon-url') place=none ;;
    'files mv --daemon-token') place=none ;;
    'files mv --data-dir') place=directory ;;
    'files watch --daemon-url') place=none ;;
    'files watch --daemon-token') place=none ;;
    'files watch --data-dir') place=directory ;;
    'ping --daemon-url') place=none ;;
    'ping --daemon-token') place=none ;;
    'ping --data-dir') place=directory ;;
    'port --expires') place=none ;;
    'port --daemon-url') place=none ;;
    'port --daemon-token') place=none ;;
    'port --data-dir') place=directory ;;
    'logs --tail') place=none ;;
    'logs --daemon-url') place=none ;;
    'logs --daemon-token') place=none ;;
    'logs --data-dir') place=directory ;;
    'workspace --daemon-url') place=none ;;
    'workspace --daemon-token') place=none ;;
    'workspace --data-dir') place=directory ;;
    'workspace create --snapshot') place=snapshot ;;
    'workspace create --memory-limit-mib') place=none ;;
    'workspace create --label') place=none ;;
    'workspace create --daemon-url') place=none ;;
    'workspace create --daemon-token') place=none ;;
    'workspace create --data-dir') place=directory ;;
    'workspace suspend --daemon-url') place=none ;;
    'workspace suspend --daemon-token') place=none ;;
    'workspace suspend --data-dir') place=directory ;;
    'workspace resume --daemon-url') place=none ;;
    'workspace resume --daemon-token') place=none ;;
    'workspace resume --data-dir') place=directory ;;
    'workspace list --daemon-url') place=none ;;
    'workspace list --daemon-token') place=none ;;
    'workspace list --data-dir') place=directory ;;
    'workspace get --daemon-url') place=none ;;
    'workspace get --daemon-token') place=none ;;
    'workspace get --data-dir') place=directory ;;
    'workspace delete --daemon-url') place=none ;;
    'workspace delete --daemon-token') place=none ;;
    'workspace delete --data-dir') place=directory ;;
    'tree --daemon-url') place=none ;;
    'tree --daemon-token') place=none ;;
    'tree --data-dir') place=directory ;;
    'inspect --daemon-url') place=none ;;
    'inspect --daemon-token') place=none ;;
    'inspect --data-dir') place=directory ;;
    'stats --daemon-url') place=none ;;
    'stats --daemon-token') place=none ;;
    'stats --data-dir') place=directory ;;
    'events --sandbox') place=sandbox ;;
    'events --after') place=none ;;
    'events --daemon-url') place=none ;;
    'events --daemon-token') place=none ;;
    'events --data-dir') place=directory ;;
    'mcp --max-sandboxes') place=none ;;
    'mcp --ttl') place=none ;;
    'mcp --daemon-url') place=none ;;
    'mcp --daemon-token') place=none ;;
    'mcp --data-dir') place=directory ;;
    'doctor --daemon-url') place=none ;;
    'doctor --daemon-token') place=none ;;
    'doctor --data-dir') place=directory ;;
    'cleanup --daemon-url') place=none ;;
    'cleanup --daemon-token') place=none ;;
    'cleanup --data-dir') place=directory ;;
    'stop --daemon-url') place=none ;;
    'stop --daemon-token') place=none ;;
    'stop --data-dir') place=directory ;;
    'version --daemon-url') place=none ;;
    'version --daemon-token') place=none ;;
    'version --data-dir') place=directory ;;
    'completion --daemon-url') place=none ;;
    'completion --daemon-token') place=none ;;
    'completion --data-dir') place=directory ;;
    'bench --daemon-url') place=none ;;
    'bench --daemon-token') place=none ;;
    'bench --data-dir') place=directory ;;
    'bench branch --modes') place=none ;;
    'bench branch --iterations') place=none ;;
    'bench branch --mem') place=none ;;
    'bench branch --private') place=none ;;
    'bench branch --csv') place=file ;;
    'bench branch --chart') place=file ;;
    'bench branch --daemon-url') place=none ;;
    'bench branch --daemon-token') place=none ;;
    'bench branch --data-dir') place=directory ;;
    'bench fork -n' | 'bench fork --count') place=none ;;
    'bench fork --iterations') place=none ;;
    'bench fork --daemon-url') place=none ;;
    'bench fork --daemon-token') place=none ;;
    'bench fork --data-dir') place=directory ;;
    'bench chain --depth') place=none ;;
    'bench chain --iterations') place=none ;;
    'bench chain --daemon-url') place=none ;;
    'bench chain --daemon-token') place=none ;;
    'bench chain --data-dir') place=directory ;;
    'bench disk --dirty-mib') place=none ;;
    'bench disk --iterations') place=none ;;
    'bench disk --span-mib') place=none ;;
    'bench disk --load-ms') place=none ;;
    'bench disk --depth') place=none ;;
    'bench disk --daemon-url') place=none ;;
    'bench disk --daemon-token') place=none ;;
    'bench disk --data-dir') place=directory ;;
    'bench exec --iterations') place=none ;;
    'bench exec --daemon-url') place=none ;;
    'bench exec --daemon-token') place=none ;;
    'bench exec --data-dir') place=directory ;;
    'bench load --iterations') place=none ;;
    'bench load --daemon-url') place=none ;;
    'bench load --daemon-token') place=none ;;
    'bench load --data-dir') place=directory ;;
    'bench soak --clients') place=none ;;
    'bench soak --secs') place=none ;;
    'bench soak --rounds') place=none ;;
    'bench soak --children') place=none ;;
    'bench soak --hostile') place=none ;;
    'bench soak --daemon-url') place=none ;;
    'bench soak --daemon-token') place=none ;;
    'bench soak --data-dir') place=directory ;;
    'bench torture --minutes') place=none ;;
    'bench torture --window-secs') place=none ;;
    'bench torture --callers') place=none ;;
    'bench torture --payloads') place=none ;;
    'bench torture --daemon-url') place=none ;;
    'bench torture --daemon-token') place=none ;;
    'bench torture --data-dir') place=directory ;;
    'wp-bench --region-mib') place=none ;;
    'wp-bench --writers') place=none ;;
    'wp-bench --daemon-url') place=none ;;
    'wp-bench --daemon-token') place=none ;;
    'wp-bench --data-dir') place=directory ;;
    *) return 1 ;;
  esac
}

# What may stand at the place $2 of the verb $1.
_forkd_argument() {
  case "$1 $2" in
    'from-image 0') place=file choices='python base code-interpreter debian busybox' ;;
    'rebuild 0') place=snapshot ;;
    'snapshot export 0') place=snapshot ;;
    'snapshot export 1') place=directory ;;
    'snapshot import 0') place=directory ;;
    'snapshot-info 0') place=snapshot ;;
    'snapshot-compact 0') place=snapshot ;;
    'rmi '*) place=snapshot ;;
    'fork 0') place=snapshot ;;
    'update 0') place=sandbox ;;
    'pause '*) place=sandbox ;;
    'resume '*) place=sandbox ;;
    'net 0') place=sandbox ;;
    'kill '*) place=sandbox ;;
    'exec 0') place=sandbox ;;
    'shell 0') place=sandbox ;;
    'attach 0') place=sandbox ;;
    'eval 0') place=sandbox ;;
    'cp 0') place=file ;;
    'cp 1') place=file ;;
    'ping 0') place=sandbox ;;
    'port 0') place=sandbox ;;
    'logs 0') place=sandbox ;;
    'workspace suspend 0') place=workspace ;;
    'workspace resume 0') place=workspace ;;
    'workspace get 0') place=workspace ;;
    'workspace delete '*) place=workspace ;;
    'inspect 0') place=sandbox ;;
    'stats '*) place=sandbox ;;
    'completion 0') place=words choices='bash zsh fish' ;;
    *) place=none ;;
  esac
}

# The options of the verb $1, or with "verbs" the verbs below it.
_forkd_words() {
  case "$1 $2" in
    ' options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    ' verbs') echo 'quickstart run from-image rebuild snapshot snapshot-diff images snapshot-info snapshot-compact rmi prune fork spawn ls ps update pause resume net kill exec shell attach eval cp files ping port logs workspace ws tree inspect stats events mcp doctor cleanup stop version completion bench wp-bench' ;;
    'quickstart options') echo '--json --keep --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'run options') echo '--tag --name -i --interactive -t --tty -e --env -w --workdir -u --user --timeout --memory-limit-mib --per-child-netns --label --net --allow --deny --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'from-image options') echo '--tag --kernel --warm --warm-file --mem-mib --boot-wait-secs --net --allow --deny --warm-net --tap --vcpus --disk-gib --cpu-model -e --env --copy --package --replace --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'rebuild options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'snapshot options') echo '--tag --from-sandbox --live --diff --full --no-wait --until --audit --safety --kernel --rootfs --rw --warm --warm-file --mem-mib --boot-wait-secs --net --allow --deny --warm-net --tap --vcpus --disk-gib --cpu-model --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'snapshot verbs') echo 'export import' ;;
    'snapshot export options') echo '--format --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'snapshot import options') echo '--format --rootfs --vcpus --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'snapshot-diff options') echo '--from --tag --exec --exec-timeout --keep --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'images options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'snapshot-info options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'snapshot-compact options') echo '--from --to --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'rmi options') echo '--cascade --force --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'prune options') echo '--older-than --keep --dry-run --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'fork options') echo '--tag -n --count --name --memory-limit-mib --per-child-netns --label --net --allow --deny --ttl --on-expire --safety --partial --settle-secs --agent-address --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'ls options') echo '--label --name --state --tag -a --all --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'update options') echo '--name --no-name --label --remove-label --ttl --no-ttl --on-expire --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'pause options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'resume options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'net options') echo '--net --allow --deny --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'net verbs') echo 'log presets' ;;
    'net log options') echo '-f --follow --sandbox --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'net presets options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'kill options') echo '--all --tag --label --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'exec options') echo '-i --interactive -t --tty -e --env -w --workdir -u --user --timeout -d --detach --detach-keys --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'shell options') echo '-e --env -w --workdir -u --user --detach-keys --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'attach options') echo '--list --from-offset --no-stdin --detach-keys --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'eval options') echo '--timeout --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'cp options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'files options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'files verbs') echo 'stat mkdir mv watch' ;;
    'files stat options') echo '-L --follow --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'files mkdir options') echo '-m --mode --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'files mv options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'files watch options') echo '-r --recursive --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'ping options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'port options') echo '--url --expires --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'logs options') echo '-f --follow --tail --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'workspace options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'workspace verbs') echo 'create suspend resume list ls get delete rm' ;;
    'workspace create options') echo '--snapshot --memory-limit-mib --per-child-netns --label --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'workspace suspend options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'workspace resume options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'workspace list options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'workspace get options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'workspace delete options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'tree options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'inspect options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'stats options') echo '--watch --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'events options') echo '--sandbox --after --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'mcp options') echo '--max-sandboxes --ttl --read-only --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'doctor options') echo '--fix --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'cleanup options') echo '-y --yes --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'stop options') echo '--kill --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'version options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'completion options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench options') echo '--json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench verbs') echo 'branch fork chain disk exec load soak torture' ;;
    'bench branch options') echo '--modes --iterations --mem --private --storm --csv --chart --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench fork options') echo '-n --count --iterations --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench chain options') echo '--depth --iterations --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench disk options') echo '--dirty-mib --iterations --span-mib --load-ms --depth --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench exec options') echo '--iterations --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench load options') echo '--iterations --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench soak options') echo '--clients --secs --rounds --children --hostile --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'bench torture options') echo '--minutes --window-secs --callers --payloads --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
    'wp-bench options') echo '--region-mib --writers --json --daemon-url --daemon-token --data-dir -q --quiet -h --help' ;;
  esac
}

_forkd() {
  local -a words=()
  local IFS=$' \t\n' path='' place='' choices='' word cur i at=0 foreign=''
  _forkd_split
  cur="${words[-1]}"
  for ((i = 1; i < ${#words[@]} - 1; i++)); do
    word="${words[i]}"
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
      case "$path" in 'run' | 'exec') foreign=1 && break ;; esac
    fi
  done
  # The last option may have taken the word that is being written.
  ((i >= ${#words[@]})) || place='' choices=''
  if [[ $foreign ]]; then
    place=file
  elif [[ -z $place && $cur == --*=* ]]; then
    _forkd_value "$path" "${cur%%=*}"
    cur="${cur#*=}"
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
  if [[ $place != words && $choices ]]; then mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$choices" -- "$cur"); fi
}

complete -F _forkd forkd
