/**
 * Hosts that lack what newer kernels or more privileges give: a seccomp filter makes the calls fail for a whole run of pager,
 * controller and QEMU. Where the page map cannot be scanned it is read, and all is as elsewhere. Where there is no userfaultfd
 * a live branch is refused with the reason, and the other modes do what they do elsewhere, byte for byte.
 */
import { execFile } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { BUILT, REPO, requireBuilt } from '@forkd/testing';
import { beforeAll, describe, expect, test } from 'vitest';

const PROGRAM = join(REPO, 'tests/e2e/programs/limited-host.mjs');
const RIGHT = { checked_pages: 65_536, differing_pages: 0 };

describe('a limited host', () => {
  beforeAll(requireBuilt);

  test('branches correctly in all modes without PAGEMAP_SCAN, as before Linux 6.7', async () => {
    const seen = await onHostWithout(['pagemap-scan'], 'engine');
    expect(seen).toMatchObject({ reason: null, booted: all(RIGHT), child: all(RIGHT), errors: 0 });
  });

  test('branches correctly in all modes with userfaultfd only through its device', async ({ skip }) => {
    const openable = await access('/dev/userfaultfd', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    );
    skip(!openable, '/dev/userfaultfd cannot be opened here');
    const seen = await onHostWithout(['userfaultfd:EPERM'], 'booted');
    expect(seen).toMatchObject({ reason: null, booted: all(RIGHT), errors: 0 });
  });

  test('refuses live branches without userfaultfd, and branches correctly in diff and full mode', async () => {
    const seen = await onHostWithout(['userfaultfd:ENOSYS'], 'engine');
    const modes = { live: refused('Function not implemented'), diff: RIGHT, full: RIGHT };
    expect(seen).toMatchObject({ booted: modes, child: modes, errors: 0 });
    expect(seen['reason']).toContain('Function not implemented');
  });

  test('gives the missing right as the reason when userfaultfd is denied', async () => {
    const seen = await onHostWithout(['userfaultfd:EPERM', 'userfaultfd-device:EPERM'], 'booted');
    const modes = { live: refused('Operation not permitted'), diff: RIGHT, full: RIGHT };
    expect(seen).toMatchObject({ booted: modes, errors: 0 });
    expect(seen['reason']).toContain('Operation not permitted');
  });

  test('refuses a live branch over the API before anything is touched, without userfaultfd', async () => {
    const seen = await onHostWithout(['userfaultfd:ENOSYS'], 'controller');
    expect(seen).toMatchObject({
      live: {
        name: 'ForkdError',
        code: 'unsupported',
        status: 400,
        message: expect.stringMatching(/live.*userfaultfd.*Function not implemented/),
        hint: expect.stringContaining('diff'),
      },
      diff: 'ready',
      full: 'ready',
      errors: 0,
    });
    expect(seen['tags']).toEqual(expect.arrayContaining(['base', 'diff', 'full']));
    expect(seen['tags']).not.toContain('live');
  });
});

function all(outcome: object): object {
  return { live: outcome, diff: outcome, full: outcome };
}

function refused(reason: string): object {
  return { name: 'EngineError', code: 'unsupported', message: expect.stringContaining(reason) as string };
}

async function onHostWithout(denied: readonly string[], subject: string): Promise<Record<string, unknown>> {
  const args = [...denied, '--', process.execPath, PROGRAM, subject];
  const { stdout } = await promisify(execFile)(BUILT.deny, args);
  return JSON.parse(stdout) as Record<string, unknown>;
}
