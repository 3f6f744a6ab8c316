// The licences of the code that the packages contain beside our own: npm packages in the bundles, crates in the native programs.
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { capture, repoRoot } from './terminal.mjs';

const LICENCE_FILE = /^(licen[cs]e|copying|notice)/i;

/** The licence texts of all packages and crates of a build, one after another. Some are only used by tests. */
export function thirdPartyNotices() {
  const sections = [...npmPackages(), ...crates()].map(({ name, licence, directory }) => {
    const texts = readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isFile() && LICENCE_FILE.test(entry.name))
      .map((entry) => entry.name)
      .toSorted()
      .map((file) => readFileSync(join(directory, file), 'utf8').trim());
    return [`== ${name} (${licence})`, ...texts].join('\n\n');
  });
  return `${sections.join('\n\n')}\n`;
}

function npmPackages() {
  const { packages } = JSON.parse(readFileSync(join(repoRoot, 'package-lock.json'), 'utf8'));
  return Object.entries(packages)
    .filter(([path, { dev, link, optional }]) => path.startsWith('node_modules/') && !dev && !link && !optional)
    .map(([path, { version, license }]) => ({
      name: `${path.replace(/.*node_modules\//, '')} ${version}`,
      licence: license,
      directory: join(repoRoot, path),
    }));
}

function crates() {
  const build = ['--locked', '--offline', '--filter-platform', 'x86_64-unknown-linux-gnu'];
  const { packages } = JSON.parse(capture('cargo', ['metadata', '--format-version', '1', ...build]));
  return packages
    .filter((/** @type {{ source: string | null }} */ { source }) => source !== null)
    .map((/** @type {Record<string, string>} */ { name, version, license, manifest_path: manifest = '' }) => ({
      name: `${name} ${version}`,
      licence: license,
      directory: dirname(manifest),
    }));
}
