import { join } from 'node:path';
// Proves the parts of the command line that need no controller: prefixes, numbers, places, tables, and the checks of the
// quickstart, which have to find every line that is missing or wrong.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parsePlace } from '../src/commands/cp.ts';
import { CounterReader, counterStart } from '../src/commands/quickstart/counter.ts';
import { countDistinct, parseAnswer, sharedNames, type ChildAnswer } from '../src/commands/quickstart/warm.ts';
import { checkName } from '../src/files/copy.ts';
import { columnGroups, formatAge, formatBytes, formatMs, formatTable, formatUntil } from '../src/output/text.ts';
import { buildTree, drawTree } from '../src/output/tree.ts';
import { environment, integer, label, labelFilter, seconds, wholeSeconds } from '../src/parse/parse.ts';
import { pickCommand, pickSandbox } from '../src/parse/resolve.ts';
import { absoluteSource, copyOf } from '../src/parse/source.ts';

describe('prefixes', () => {
  const ids = ['sb-1f', 'sb-1fa0', 'sb-2c00'].map((id) => ({ id }));

  test('takes the exact one first, then a beginning that no other has', () => {
    expect(pickSandbox(ids, 'sb-1f')).toBe('sb-1f');
    expect(pickSandbox(ids, 'sb-1fa')).toBe('sb-1fa0');
    expect(pickSandbox(ids, '2c')).toBe('sb-2c00');
  });

  test('names the candidates where there are several, and finds nothing in nothing', () => {
    expect(() => pickSandbox(ids, 'sb-')).toThrow('sb-1f, sb-1fa0, sb-2c00');
    expect(() => pickSandbox(ids, 'sb-9')).toThrow('There is no sandbox "sb-9"');
    expect(() => pickSandbox(ids, '')).toThrow('There is no sandbox');
  });

  test('takes a name, or that of a workspace, before a beginning of an id', () => {
    const named = [{ id: 'sb-1f' }, { id: 'sb-2c', name: '1f' }, { id: 'sb-3d', workspace: 'dev' }];
    expect(pickSandbox(named, '1f')).toBe('sb-2c');
    expect(pickSandbox(named, 'sb-1f')).toBe('sb-1f');
    expect(pickSandbox(named, 'dev')).toBe('sb-3d');
    expect(() => pickSandbox(named, 'de')).toThrow('There is no sandbox');
  });

  test('means the command that runs, or the only one', () => {
    const command = (id: string, running: boolean) => ({
      id,
      running,
      pid: 1,
      args: [],
      exit_code: null,
      signal: null,
      timed_out: false,
      output_start: 0,
      output_end: 0,
      started_unix_ms: 0,
    });
    expect(pickCommand([command('1', false), command('2', true)], undefined)?.id).toBe('2');
    expect(pickCommand([command('1', false)], undefined)?.id).toBe('1');
    expect(pickCommand([command('1', true), command('2', true)], undefined)).toBeUndefined();
    expect(pickCommand([command('10', true), command('1', true)], '1')?.id).toBe('1');
    expect(() => pickCommand([command('1', true)], '7')).toThrow('There is no command "7"');
  });
});

describe('arguments', () => {
  test('takes numbers within their limits and nothing else', () => {
    expect(integer('-n', 1, 1000)('1000')).toBe(1000);
    for (const text of ['0', '1001', '1.5', '', 'x', '1e2', ' 1'])
      expect(() => integer('-n', 1, 1000)(text)).toThrow('-n');
    expect(seconds('--timeout', 60)('0.5')).toBe(0.5);
    for (const text of ['0', '-1', '61', '', 'NaN']) expect(() => seconds('--timeout', 60)(text)).toThrow('--timeout');
  });

  test('takes times in words of one kind, and says what it takes', () => {
    const ttl = wholeSeconds('--ttl', 1, 86_400);
    expect(['90', '90s', '15m', '2h', '1d', '1.5m'].map(ttl)).toEqual([90, 90, 900, 7200, 86_400, 90]);
    for (const text of ['', '0', '1.5', '2d', '-1', '1 h', '1h30m', 'h', '1w', '0x10'])
      expect(() => ttl(text)).toThrow('--ttl');
    expect(seconds('--timeout', 7200)('2h')).toBe(7200);
  });

  test('takes labels, each key once, and filters by key or by both', () => {
    expect(label('b=', label('a=x=y', undefined))).toEqual({ a: 'x=y', b: '' });
    expect(() => label('a=2', { a: '1' })).toThrow('given twice');
    for (const text of ['a', '=1', '-a=1', 'a b=1', `a=${'x'.repeat(257)}`]) {
      expect(() => label(text, undefined)).toThrow('--label');
    }
    expect(labelFilter('a=1', ['b'])).toEqual(['b', 'a=1']);
  });

  test('takes variables as Docker does', () => {
    const env = { HOME: '/root', EMPTY: '' };
    expect(environment(['A=1', 'B=x=y', 'HOME', 'EMPTY', 'MISSING', 'C='], env)).toEqual({
      A: '1',
      B: 'x=y',
      HOME: '/root',
      EMPTY: '',
      C: '',
    });
    expect(() => environment(['=1'], env)).toThrow('no name');
  });

  test('tells a place in a sandbox from a local file', () => {
    expect(parsePlace('-')).toEqual({ kind: 'stdio' });
    expect(parsePlace('sb-1:/etc')).toEqual({ kind: 'guest', sandbox: 'sb-1', path: '/etc' });
    expect(parsePlace('./a:b')).toEqual({ kind: 'local', path: './a:b' });
    expect(parsePlace(':a')).toEqual({ kind: 'local', path: ':a' });
    expect(() => parsePlace('sb-1:')).toThrow('no path');
  });

  test('never follows a name of the guest out of the target', () => {
    for (const name of ['..', '.', '', 'a/b', '../x', 'a\0']) expect(() => checkName(name)).toThrow('The guest lists');
    expect(checkName('..a')).toBe('..a');
  });

  test('makes the paths of a source absolute, and leaves names alone', () => {
    expect(absoluteSource('./x', '/here')).toBe('/here/x');
    expect(absoluteSource('x.tar', '/here')).toBe('/here/x.tar');
    expect(absoluteSource('oci:a/b:latest', '/here')).toBe('oci:/here/a/b:latest');
    expect(absoluteSource('python', '/nowhere')).toBe('python');
    // The folder of the Python SDK is no root file system.
    expect(absoluteSource('python', join(import.meta.dirname, '../../..'))).toBe('recipe:python');
    expect(absoluteSource('docker:alpine:3', '/')).toBe('docker:alpine:3');
    expect(absoluteSource('registry.example/a/b:1', '/nowhere')).toBe('registry.example/a/b:1');
  });

  test('takes the last colon of a copy for the one between its paths', () => {
    expect(copyOf('./app:/srv/app', '/here')).toEqual({ from: '/here/app', to: '/srv/app' });
    expect(copyOf('/a:b:c', '/here')).toEqual({ from: '/a:b', to: 'c' });
    for (const text of ['app', ':app', 'app:']) expect(() => copyOf(text, '/')).toThrow('is not SRC:DST');
  });
});

describe('text', () => {
  test('formats sizes, times and ages', () => {
    expect([0, 1023, 1536, 150 * 1024, 3 * 1024 ** 3].map(formatBytes)).toEqual([
      '0 B',
      '1023 B',
      '1.5 KiB',
      '150 KiB',
      '3.0 GiB',
    ]);
    expect([2.134, 543.2, 65_432].map(formatMs)).toEqual(['2.13 ms', '543 ms', '65.4 s']);
    expect(formatAge(100, 101_000)).toBe('1 second ago');
    expect(formatAge(0, 7_300_000)).toBe('2 hours ago');
    expect(formatAge(200, 100_000)).toBe('0 seconds ago');
  });

  test('aligns columns whatever their colours', () => {
    expect(
      formatTable(
        ['A', 'B'],
        [
          ['\u001b[32mlong\u001b[39m', '1'],
          ['x', '2'],
        ],
      ),
    ).toBe('A     B\n\u001b[32mlong\u001b[39m  1\nx     2');
  });

  test('lets the widest columns give way, and an id none of itself', () => {
    const id = 'sb-0123456789';
    const text = formatTable(['ID', 'A', 'B'], [[id, 'a'.repeat(40), 'b'.repeat(60)]], 60);
    expect(text.split('\n').every((line) => line.length <= 60)).toBe(true);
    expect(text).toContain(`${id}  aaaaaaaa`);
    const narrow = formatTable(['ID', 'A'], [[id, 'a'.repeat(40)]], 10);
    expect(narrow).toContain(`${id}  ${'a'.repeat(13)}…`);
  });

  test('leaves out the last columns of a table that is still too wide, and says so in the heading', () => {
    const header = ['SANDBOX', 'NAME', 'STATE', 'SNAPSHOT', 'CREATED', 'EXPIRES', 'PID', 'BRANCHES', 'LABELS'];
    const row = ['sb-0123456789', 'web', 'running', 'python-3.11', '12 minutes ago', 'in 2 hours', '12345', '0', 'a=b'];
    const lines = formatTable(header, [row], 80).split('\n');
    expect(lines.every((line) => line.length <= 80)).toBe(true);
    expect(lines[0]).toMatch(/^SANDBOX .* EXPIRES +PID +…$/);
    expect(lines[1]).toMatch(/^sb-0123456789 .* 12345$/);
    expect(formatTable(header, [row], 120)).not.toContain('…');
  });

  test('can be split into several, each with the first column, so that none is left out', () => {
    const header = ['MODE', 'PAUSE p50 / p99 / max', 'FLOOR', 'READY', 'DURABLE'];
    const rows = [['live-async', '1.04 ms / 1.55 ms / 1.55 ms', '0.95 ms', '53.1 ms', '151 ms']];
    expect(columnGroups(header, rows, 200)).toEqual([[0, 1, 2, 3, 4]]);
    expect(columnGroups(header, rows, 60)).toEqual([
      [0, 1, 2, 3],
      [0, 4],
    ]);
    expect(columnGroups(header, rows, 20)).toEqual([
      [0, 1],
      [0, 2],
      [0, 3],
      [0, 4],
    ]);
  });

  test('says until when in the unit that tells most', () => {
    expect([7195, 90, 3 * 86_400, 0].map((secs) => formatUntil(1000 + secs, 1_000_000))).toEqual([
      'in 119 minutes',
      'in 90 seconds',
      'in 3 days',
      'now',
    ]);
  });
});

describe('the tree', () => {
  const snapshot = (tag: string, more: object = {}) => {
    return { tag, dir: '', created_at_unix: 1, status: 'ready' as const, bootable: true, ...more };
  };
  const sandbox = (id: string, tag: string) => {
    const info = { id, snapshot_tag: tag, netns: null, guest_addr: '', created_at_unix: 1, pid: null };
    return { ...info, memory_limit_mib: null, has_branched: false, last_branch_memory_path: null, branch_count: 0 };
  };

  test('has a branch below its sandbox, below the snapshot when that has ended, and loses none', () => {
    const nodes = buildTree({
      snapshots: [
        snapshot('base'),
        snapshot('b1', { parent_tag: 'base', branched_from: 'sb-1' }),
        snapshot('b2', { parent_tag: 'base', branched_from: 'sb-gone' }),
        snapshot('orphan', { parent_tag: 'gone' }),
      ],
      sandboxes: [sandbox('sb-1', 'base'), sandbox('sb-2', 'b1'), sandbox('sb-3', 'removed')],
      layerBytes: new Map(),
      stats: new Map([['sb-2', { private_bytes: 1, shared_bytes: 2, disk_own_bytes: 3, disk_shared_bytes: 4 }]]),
    });
    expect(JSON.stringify(nodes)).toContain(
      '"private_bytes":1,"shared_bytes":2,"disk_own_bytes":3,"disk_shared_bytes":4',
    );
    expect(drawTree(nodes, (node) => (node.kind === 'sandbox' ? node.id : node.tag))).toEqual([
      'base',
      '├─ b2',
      '└─ sb-1',
      '   └─ b1',
      '      └─ sb-2',
      'orphan',
      'sb-3',
    ]);
  });
});

describe('the counter of the quickstart', () => {
  function output(lines: number): Buffer {
    let text = '';
    for (let n = 0, check = 1; n < lines; n += 1) {
      check = (check * 31 + n) % 1_000_003;
      text += `${n} ${check}\n`;
    }
    return Buffer.from(text);
  }

  test('reads the same however it is cut up, and can be taken up at any line', () => {
    const whole = output(50);
    fc.assert(
      fc.property(fc.array(fc.nat(whole.length), { maxLength: 20 }), fc.nat(40), (places, stopAt) => {
        const first = new CounterReader(counterStart);
        const cuts = [...places, 0, whole.length].toSorted((one, other) => one - other);
        cuts.slice(1).forEach((end, index) => first.feed(cuts[index] ?? 0, whole.subarray(cuts[index], end)));
        expect(first.fault).toBeUndefined();
        expect(first.state).toMatchObject({ next: 50, offset: whole.length });
        const part = new CounterReader(counterStart);
        part.feed(0, output(stopAt));
        const rest = new CounterReader(part.state);
        rest.feed(part.state.offset, whole.subarray(part.state.offset));
        expect(rest.fault).toBeUndefined();
        expect(rest.state).toEqual(first.state);
      }),
    );
  });

  test('sees a byte that is missing, changed or doubled, and a hole that is told', () => {
    const whole = output(20);
    fc.assert(
      fc.property(fc.nat(whole.length - 2), fc.constantFrom('missing', 'changed', 'doubled'), (at, kind) => {
        const insert = {
          missing: [],
          changed: [whole[at] === 0x37 ? 0x38 : 0x37],
          doubled: [whole[at] ?? 0, whole[at] ?? 0],
        }[kind];
        const reader = new CounterReader(counterStart);
        reader.feed(0, Buffer.concat([whole.subarray(0, at), Buffer.from(insert), whole.subarray(at + 1)]));
        expect(reader.fault).toBeDefined();
      }),
    );
    const late = new CounterReader(counterStart);
    late.feed(5, whole.subarray(5));
    expect(late.fault).toContain('byte 5');
    const holed = new CounterReader(counterStart);
    holed.gap(0, 9);
    expect(holed.fault).toContain('gone');
  });
});

describe('the answers of the quickstart', () => {
  const child = (own: (string | number)[]): ChildAnswer => ({ nonce: 'n', secret: 's', intact: true, own });

  test('reads the repr of a Python string', () => {
    expect(parseAnswer(`'{"nonce": "a", "secret": "b", "intact": true, "own": [1]}'`)).toEqual({
      nonce: 'a',
      secret: 'b',
      intact: true,
      own: [1],
    });
  });

  test('counts no child that has one value in common with another', () => {
    expect(countDistinct([child(['a', 'x']), child(['b', 'y']), child(['c', 'z'])])).toBe(3);
    expect(countDistinct([child(['a', 'x']), child(['b', 'x']), child(['c', 'z'])])).toBe(1);
    expect(sharedNames([child(['a', 'x']), child(['b', 'x'])])).toContain('machine-id');
  });
});
