/** A user of a guest. */
export interface Account {
  name: string;
  uid: number;
  home: string;
}

/** Every guest has one, even without a file of users. */
const ROOT: Account = { name: 'root', uid: 0, home: '/root' };

/** The users and groups of a guest, as its files list them. */
export class Accounts {
  readonly #accounts: readonly Account[];
  readonly #groups: ReadonlyMap<number, string>;

  constructor(passwd: string, group: string) {
    this.#accounts = [...fieldsOf(passwd, 6).map(accountOf), ROOT];
    const groups = fieldsOf(group, 3).map(([name = '', , gid]) => [Number(gid), name] as const);
    this.#groups = new Map([[0, 'root'], ...groups.toReversed()]);
  }

  named(name: string): Account | undefined {
    return this.#accounts.find((account) => account.name === name);
  }

  /** The user for whom requests act that name none: `user` as in E2B's images, or root. */
  get standard(): Account {
    return this.named('user') ?? this.named('root') ?? ROOT;
  }

  /** The name of a user, or the number if the guest has no such user. */
  userName(uid: number): string {
    return this.#accounts.find((account) => account.uid === uid)?.name ?? String(uid);
  }

  groupName(gid: number): string {
    return this.#groups.get(gid) ?? String(gid);
  }
}

function fieldsOf(text: string, count: number): string[][] {
  return text
    .split('\n')
    .map((line) => line.split(':'))
    .filter((fields) => fields.length >= count);
}

function accountOf(fields: readonly string[]): Account {
  const [name = '', , uid, , , home] = fields;
  return { name, uid: Number(uid), home: home?.startsWith('/') ? home : '/' };
}
