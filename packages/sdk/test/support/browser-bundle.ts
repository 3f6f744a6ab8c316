// The main entry as a page would have it: bundled for browsers, and run where there is nothing but what a page has.
import { resolve } from 'node:path';
import vm from 'node:vm';
import { rolldown } from 'rolldown';
import type * as sdk from '../../src/index.ts';

const ENTRY = resolve(import.meta.dirname, '../../dist/index.js');

/** One script that puts the SDK into the global `forkd`. Fails where a module has to come from anywhere else. */
export async function bundleForBrowsers(): Promise<string> {
  const problems: string[] = [];
  const bundle = await rolldown({
    input: ENTRY,
    platform: 'browser',
    onLog: (_, log) => problems.push(log.message),
  });
  try {
    const { output } = await bundle.generate({ format: 'iife', name: 'forkd', codeSplitting: false });
    const [chunk, ...others] = output;
    const outside = [...chunk.imports, ...chunk.dynamicImports].filter((name) => name !== chunk.fileName);
    if (others.length > 0 || outside.length > 0 || problems.length > 0) {
      throw new Error(
        `the bundle is not whole: ${[...outside, ...problems, `${others.length} more files`].join('; ')}`,
      );
    }
    return chunk.code;
  } finally {
    await bundle.close();
  }
}

/** Runs the script in a realm of its own, which has what pages have and nothing of Node. */
export function runAsPage(script: string): typeof sdk {
  const globals = {
    AbortController,
    AbortSignal,
    atob,
    btoa,
    clearTimeout,
    crypto,
    fetch,
    performance,
    setTimeout,
    TextDecoder,
    TextEncoder,
    URL,
    URLSearchParams,
  };
  const context = vm.createContext({ ...globals });
  vm.runInContext(`${script}\nglobalThis.forkd = forkd;`, context);
  return context['forkd'] as typeof sdk;
}
