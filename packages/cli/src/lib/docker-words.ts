/** Hints for the commands of Docker that forkd does not have. forkd has `stop`, but it ends the controller. */
const commands: Readonly<Record<string, string>> = {
  build: '`forkd from-image` makes a snapshot of a recipe, an image or a directory.',
  commit: '`forkd snapshot --from-sandbox NAME --tag TAG` takes a snapshot of a sandbox.',
  container: '`forkd ls` lists the sandboxes, and `forkd kill` ends them.',
  create: '`forkd fork TAG` starts a sandbox.',
  export: '`forkd snapshot export` writes a snapshot to files.',
  history: '`forkd tree` shows what was made from what.',
  image: '`forkd images` lists the snapshots, and `forkd rmi` removes them.',
  import: '`forkd snapshot import` reads a snapshot from files.',
  info: '`forkd doctor` checks this host.',
  load: '`forkd snapshot import` reads a snapshot from files.',
  pull: '`forkd from-image IMAGE --tag TAG` makes a snapshot of an image.',
  rename: '`forkd update NAME --name NEW` renames a sandbox.',
  restart: '`forkd kill` ends a sandbox, and `forkd fork TAG` starts a new one.',
  rm: '`forkd kill` ends a sandbox, and nothing of it is left. `forkd rmi` removes a snapshot.',
  save: '`forkd snapshot export` writes a snapshot to files.',
  start: '`forkd fork TAG` starts a sandbox, and `forkd resume` continues a paused one.',
  stop: '`forkd kill` ends a sandbox, and `forkd pause` pauses one. `forkd stop` ends the controller.',
  system: '`forkd doctor` checks this host, and `forkd prune` removes old branches.',
  top: '`forkd attach --list NAME` lists the commands of a sandbox.',
  unpause: '`forkd resume` continues a paused sandbox.',
  volume: '`forkd workspace` keeps the files of a sandbox.',
};

/** Hints for the options of `docker run` and `docker exec`. */
const options: Readonly<Record<string, string>> = {
  '--mount': '`forkd cp` copies files into a sandbox.',
  '--publish': '`forkd exec NAME` reaches what listens in a sandbox.',
  '--rm': '`forkd run` always removes its sandbox.',
  '--tty': '`forkd exec -it NAME` has a terminal, and `forkd shell NAME` opens a shell.',
  '--volume': '`forkd cp` copies files into a sandbox.',
  '-d': '`forkd fork TAG` starts a sandbox that stays, and `forkd exec -d` starts a command in it.',
  '-p': '`forkd exec NAME` reaches what listens in a sandbox.',
  '-t': '`forkd exec -it NAME` has a terminal, and `forkd shell NAME` opens a shell.',
  '-v': '`forkd cp` copies files into a sandbox.',
};

export function hintForCommand(word: string): string | undefined {
  return Object.hasOwn(commands, word) ? commands[word] : undefined;
}

export function hintForOption(flag: string): string | undefined {
  return Object.hasOwn(options, flag) ? options[flag] : undefined;
}
