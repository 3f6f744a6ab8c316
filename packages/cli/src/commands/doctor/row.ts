export type RowStatus = 'pass' | 'warn' | 'fail' | 'skip';

/** A command that fixes a problem: its arguments, which no shell parses, and its stdin. */
export interface Fix {
  argv: readonly [string, ...string[]];
  input?: string;
}

/** The observer: this command on its own machine, or the running controller, which may be on another one. */
export type Where = 'local' | 'controller';

/** The result of a check. `hint` says what is lost and what still works. */
export interface Finding {
  status: RowStatus;
  where: Where;
  detail: string;
  hint: string | null;
  fix: Fix | null;
}

/** A finding as it is printed. `fix` is the exact command line, and absent if no command fixes the problem. */
export interface Row {
  id: string;
  status: RowStatus;
  where: Where;
  detail: string;
  hint: string | null;
  fix?: string;
}

export function pass(detail: string): Finding {
  return { status: 'pass', where: 'local', detail, hint: null, fix: null };
}

/** Something is lost and the rest works. */
export function warn(detail: string, hint: string, fix: Fix | null = null): Finding {
  return { status: 'warn', where: 'local', detail, hint, fix };
}

/** Sandboxes cannot be run. */
export function fail(detail: string, hint: string, fix: Fix | null = null): Finding {
  return { status: 'fail', where: 'local', detail, hint, fix };
}

/** The check was not possible here, or does not matter yet. */
export function skip(detail: string, hint: string | null = null, fix: Fix | null = null): Finding {
  return { status: 'skip', where: 'local', detail, hint, fix };
}

/** A finding of the running controller about its host. */
export function ofController(finding: Finding): Finding {
  return { ...finding, where: 'controller' };
}

export function command(...argv: [string, ...string[]]): Fix {
  return { argv };
}

export function aptInstall(packages: readonly string[]): Fix {
  return command('apt-get', 'install', '-y', '--no-install-recommends', ...packages);
}

export function toRow(id: string, { fix, ...rest }: Finding): Row {
  return { id, ...rest, ...(fix !== null && { fix: commandLine(fix) }) };
}

/** The command as it would be typed. */
export function commandLine({ argv, input }: Fix): string {
  const typed = argv.map(quote).join(' ');
  return input === undefined ? typed : `echo ${quote(input)} | ${typed}`;
}

function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
