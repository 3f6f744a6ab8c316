/**
 * Proves, against the real agent, what a terminal's user relies on: a real controlling terminal, its size, its keys, and a
 * screen for who comes late or reads too slowly.
 */
import { expect, onTestFinished } from 'vitest';
import { GuestAgent, type PtyEvent, type PtyView } from '../src/index.ts';
import { commands, startAgent, startProxy, test } from './harness.ts';

const SIZE = { cols: 80, rows: 24 };

let agent: GuestAgent;

test.beforeAll(({ agent: connected }) => {
  agent = connected;
});

/** Starts a line of a shell on a terminal. */
async function start(script: string, size = SIZE): Promise<string> {
  const { id } = await agent.start(['sh', '-c', script], { pty: size });
  return id;
}

/** Reads a view until its output ends, or shows a text. */
async function read(view: PtyView, until?: string): Promise<{ shown: string; events: PtyEvent[] }> {
  const events: PtyEvent[] = [];
  let shown = '';
  for await (const group of view) {
    events.push(...group);
    for (const { data } of group) shown += Buffer.from(data).toString('latin1');
    if (until !== undefined && shown.includes(until)) break;
  }
  return { shown, events };
}

test('a command on a terminal has a controlling terminal of the size asked for, and a TERM', async () => {
  const id = await start(
    'test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM && ps -o tty= -p $$ && echo ok >/dev/tty',
  );
  const { shown } = await read(await agent.view(id, { offset: 0 }));
  expect(shown).toMatch(/^24 80\r\nxterm-256color\r\npts\/\d+ *\r\nok\r\n$/);
  expect((await agent.get(id)).pty).toEqual(SIZE);
});

test('without arguments, the command is the shell of its user, as a login', async () => {
  const { id } = await agent.start([], { pty: SIZE });
  expect((await agent.get(id)).args).toEqual([expect.stringMatching(/\/(ba|da|z)?sh$/), '-l']);
  await agent.forget(id);
});

test('a new size reaches the program, and the same size makes it draw again', async () => {
  const id = await start('trap "echo drawn; stty size" WINCH; echo ready; while :; do sleep 0.05; done');
  const view = await agent.view(id, { offset: 0 });
  const reading = read(view, '50 132');
  await expect.poll(async () => (await agent.get(id)).outputEnd).toBeGreaterThan(0);
  await agent.resize(id, { cols: 132, rows: 50 });
  expect((await reading).shown).toContain('drawn\r\n50 132');
  const again = await agent.view(id, { offset: (await agent.get(id)).outputEnd });
  await agent.resize(id, { cols: 132, rows: 50 });
  expect((await read(again, '50 132')).shown).toContain('drawn');
  await agent.forget(id);
  await expect(agent.resize(id, SIZE)).rejects.toMatchObject({ code: 'unknown_command' });
});

test('keys act as on a terminal: echo, ^C to the program in the foreground, ^D at the end', async () => {
  const { id } = await agent.start(['sh', '-i'], { pty: SIZE, env: { PS1: 'next> ' } });
  const view = await agent.view(id, { offset: 0 });
  const all = read(view);
  const type = (keys: string) => agent.writeStdin(id, Buffer.from(keys));
  // What is typed is shown, too, but not like this.
  await type("sh -c 'echo g''o; exec sleep 1000'\r");
  await read(await agent.view(id, { offset: 0 }), 'go\r\n');
  await type('\x03');
  await type('echo $((6 * 7))\r');
  await type('\x04');
  const { shown } = await all;
  expect(shown).toContain('^C');
  expect(shown).toContain('42\r\n');
  expect(view.exit?.exitCode).toBe(0);
});

test('a signal goes to the program in the foreground; one that ends a session, to the shell, too', async () => {
  const script =
    'sh -c "trap \\"echo caught; exit 9\\" INT; echo go; while :; do sleep 0.05; done"; echo "ended $?"; read x';
  const { id } = await agent.start(['sh', '-ic', script], { pty: SIZE });
  await read(await agent.view(id, { offset: 0 }), 'go\r\n');
  expect(await agent.signal(id, 'INT')).toBe(true);
  await read(await agent.view(id, { offset: 0 }), 'caught\r\nended 9\r\n');
  const view = await agent.view(id, { offset: 0 });
  expect(await agent.signal(id, 'KILL')).toBe(true);
  await read(view);
  expect(view.exit).toMatchObject({ exitCode: 137, signal: 'KILL' });
  expect(await agent.signal(id, 'INT')).toBe(false);
});

test('who comes late gets the screen, with the lines above it, and then what comes', async () => {
  const id = await start(
    `i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); done; printf '\\033[?1049h\\033[2J\\033[5;7Hfull'; read x; echo "got $x"`,
  );
  await expect.poll(async () => (await agent.get(id)).outputEnd).toBeGreaterThan(500);
  const full = await read(await agent.view(id), 'full');
  expect(full.events[0]?.type).toBe('screen');
  expect(full.shown).toContain('\x1b[?1049h');
  expect(full.shown).not.toContain('line 3\r');
  const view = await agent.view(id);
  await agent.writeStdin(id, Buffer.from('\x1b[1;1R yes\r'));
  const { events } = await read(view);
  const at = events.findIndex(({ type }) => type === 'output');
  expect(events[at]?.offset).toBe(events[at - 1]?.offset);
  expect(view.exit?.exitCode).toBe(0);
});

test('a viewer that stops reading does not hold the terminal up, and gets the screen later', async () => {
  const lines = 400_000;
  const id = await start(`seq ${lines}; echo all done; read x`);
  const slow = await agent.view(id, { offset: 0 });
  const first = await slow[Symbol.asyncIterator]().next();
  expect(first.done).toBe(false);
  // The other viewer keeps up, and the program ends its output although the first one reads nothing.
  const quick = await read(await agent.view(id, { offset: 0 }), 'all done');
  expect(quick.events.at(-1)?.type).toBe('output');
  await agent.writeStdin(id, Buffer.from('\r'));
  const { shown, events } = await read(slow);
  const screen = events.find(({ type }) => type === 'screen');
  expect(screen?.offset).toBeGreaterThan(1_000_000);
  expect(shown).toContain('all done');
  expect(shown).toContain(`${lines}`);
  expect(slow.exit?.exitCode).toBe(0);
});

test('a terminal goes on without its viewer, who finds it again after the connection broke', async () => {
  const own = await startAgent();
  onTestFinished(() => own.stop());
  const proxy = await startProxy(own);
  const first = await GuestAgent.connect(proxy.socketPath);
  const { id } = await first.start(['sh', '-c', 'while read x; do echo "<$x>"; done'], { pty: SIZE });
  const view = await first.view(id, { offset: 0 });
  const broken = read(view);
  await first.writeStdin(id, Buffer.from('one\r'));
  await expect.poll(async () => (await first.get(id)).outputEnd).toBeGreaterThanOrEqual('one\r\n<one>\r\n'.length);
  proxy.cut();
  await expect(broken).rejects.toMatchObject({ code: 'guest_disconnected' });
  await proxy.close();
  const again = await GuestAgent.connect(own.socketPath);
  const continued = await again.view(id, { offset: 5 });
  await again.writeStdin(id, Buffer.from('two\r\x04'));
  expect((await read(continued)).shown).toBe('<one>\r\ntwo\r\n<two>\r\n');
  expect((await commands(again)).find((command) => command.id === id)).toMatchObject({ running: false, pty: SIZE });
});

test('wrong requests are refused in words', async () => {
  await expect(agent.start(['true'], { pty: { cols: 0, rows: 24 } })).rejects.toMatchObject({ code: 'bad_request' });
  await expect(agent.start(['true'], { pty: { cols: 80, rows: 501 } })).rejects.toMatchObject({ code: 'bad_request' });
  const { id } = await agent.start(['true']);
  await expect(agent.view(id)).rejects.toMatchObject({ code: 'not_a_terminal' });
  await expect(agent.resize(id, SIZE)).rejects.toMatchObject({ code: 'not_a_terminal' });
  const none = await agent.start(['no-such-program'], { pty: SIZE });
  const view = await agent.view(none.id);
  expect((await read(view)).shown).toContain('no-such-program: command not found');
  expect(view.exit?.exitCode).toBe(127);
});

test('so many terminals at a time', async () => {
  const ids: string[] = [];
  const refused = (async () => {
    for (let count = 0; count < 65; count += 1) ids.push(await start('read x'));
  })();
  await expect(refused).rejects.toMatchObject({ code: 'too_many_commands' });
  expect(await Promise.all(ids.map((id) => agent.forget(id)))).toHaveLength(ids.length);
  await agent.forget(await start('read x'));
});
