/**
 * Proves that what holds replies against the API document finds each way in which one can differ from it. The other tests
 * would pass without it just as well, so that nothing else would tell.
 */
import { expect, test } from 'vitest';
import { ReplyChecker } from '../src/reply-checker.ts';

const checker = new ReplyChecker();

const sandbox = {
  id: 'sb-1',
  snapshot_tag: 'py',
  netns: null,
  guest_addr: '',
  created_at_unix: 1,
  pid: null,
  memory_limit_mib: null,
  has_branched: false,
  last_branch_memory_path: null,
  branch_count: 0,
};
const refusal = { error: 'There is no sandbox.', code: 'not_found_sandbox', hint: 'look', request_id: 'r' };

function check(route: string, status: number, body: unknown, mediaType = 'application/json', requestId?: null): void {
  const [method = '', path = ''] = route.split(' ');
  const headers = new Headers({ 'content-type': mediaType });
  if (requestId === undefined) headers.set('x-request-id', 'r');
  checker.check({ method, path }, { status, headers }, typeof body === 'string' ? body : JSON.stringify(body));
}

test('replies that match the document pass', () => {
  const all = () => {
    check('GET /v1/sandboxes/sb-1', 200, sandbox);
    check('GET /v1/sandboxes/sb-1', 404, refusal);
    check('POST /v1/sandboxes', 201, [sandbox, { ...sandbox, labels: { a: 'b' } }]);
    check('DELETE /v1/sandboxes/sb-1', 204, '');
    check('GET /v1/sandboxes/sb-1/commands/1/output', 200, '{"type":"gap","from":1,"to":2}\n', 'application/x-ndjson');
    check(
      'GET /v1/events',
      200,
      ':\n\nid: 1-1\nevent: x\ndata: {"id":"1-1","type":"events.gap","time_unix_ms":1}\n\n',
      'text/event-stream',
    );
    check('GET /nowhere', 404, { ...refusal, code: 'not_found' });
  };
  expect(all).not.toThrow();
});

test.each<[string, () => void, RegExp]>([
  [
    'a field is missing',
    () => check('GET /v1/sandboxes/sb-1', 200, { ...sandbox, netns: undefined }),
    /required property 'netns'/,
  ],
  [
    'a type is wrong',
    () => check('GET /v1/sandboxes/sb-1', 200, { ...sandbox, branch_count: '0' }),
    /branch_count must be integer/,
  ],
  [
    'a null where absence is meant',
    () => check('GET /v1/sandboxes/sb-1', 200, { ...sandbox, name: null }),
    /name must be string/,
  ],
  [
    'a field that has no name there',
    () => check('GET /v1/sandboxes/sb-1', 200, { ...sandbox, novel: 1 }),
    /additional properties/,
  ],
  ['one of a list is wrong', () => check('GET /v1/sandboxes', 200, [sandbox, {}]), /body\/1 must have required/],
  ['the status is unknown', () => check('GET /v1/sandboxes/sb-1', 207, sandbox), /does not know this status/],
  ['the media type is unknown', () => check('GET /v1/sandboxes/sb-1', 200, '<p>', 'text/html'), /knows no text\/html/],
  [
    'the code is none of this route',
    () => check('GET /v1/sandboxes/sb-1', 404, { ...refusal, code: 'not_found' }),
    /code must be equal to one of/,
  ],
  ['an error without a code', () => check('GET /v1/sandboxes/sb-1', 404, { error: 'no' }), /required property 'code'/],
  ['no JSON', () => check('GET /v1/sandboxes/sb-1', 200, '{torn'), /is not JSON/],
  ['a body where there is none', () => check('DELETE /v1/sandboxes/sb-1', 204, 'x'), /body is not empty/],
  ['no id', () => check('GET /v1/sandboxes/sb-1', 200, sandbox, 'application/json', null), /no x-request-id/],
  [
    'one line of many',
    () =>
      check(
        'GET /v1/sandboxes/sb-1/commands/1/output',
        200,
        '{"type":"gap","from":1,"to":2}\n{"type":"gap"}\n',
        'application/x-ndjson',
      ),
    /is not as the document says/,
  ],
])('%s: it is found', (_what, reply, message) => {
  expect(reply).toThrow(message);
});
