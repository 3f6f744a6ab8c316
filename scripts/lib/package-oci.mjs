// The image of the controller as an OCI layout: a minimal Debian of the building host's release, with the Debian package, and
// with the building host's own Node.js, since a release may have none that is new enough.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { aptSources, readRelease } from '../../packages/images/dist/index.js';
import { makeDeb } from './package-deb.mjs';
import { SetupError } from './terminal.mjs';

const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar+gzip';

/**
 * @param {import('../package.mjs').Package} parts
 * @returns {Promise<string>} the directory of the layout
 */
export async function makeOciLayout(parts) {
  const { out, work, version, epoch, run } = parts;
  const layout = join(out, `forkd-${version}-oci`);
  const layer = join(work, 'layer.tar');
  await makeRoot(layer, parts);
  const diffId = digestOf(layer);
  await run('gzip', ['-n', '-6', layer]);

  rmSync(layout, { recursive: true, force: true });
  mkdirSync(join(layout, 'blobs/sha256'), { recursive: true });
  const created = new Date(Number(epoch) * 1000).toISOString();
  const config = {
    created,
    architecture: 'amd64',
    os: 'linux',
    config: {
      Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
      Entrypoint: ['forkd-controller'],
      Cmd: ['serve'],
      Volumes: { '/var/lib/forkd': {} },
      Labels: { 'org.opencontainers.image.version': version, 'org.opencontainers.image.licenses': 'Apache-2.0' },
    },
    rootfs: { type: 'layers', diff_ids: [diffId] },
    history: [{ created, created_by: 'forkd: npm run package' }],
  };
  const manifest = {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: addJson(layout, 'application/vnd.oci.image.config.v1+json', config),
    layers: [addFile(layout, LAYER_TYPE, `${layer}.gz`)],
  };
  const entry = addJson(layout, manifest.mediaType, manifest);
  const annotations = { 'org.opencontainers.image.ref.name': version };
  const index = { schemaVersion: 2, manifests: [{ ...entry, annotations }] };
  writeFileSync(join(layout, 'index.json'), JSON.stringify(index));
  writeFileSync(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  return layout;
}

/** @param {string} layer the tar file to write @param {import('../package.mjs').Package} parts */
async function makeRoot(layer, { work, run, ...parts }) {
  if (process.getuid?.() !== 0) throw new SetupError('The image is made by mmdebstrap, as root.', 'Run it as root.');
  const { id, codename } = await readRelease();
  const sources = join(work, 'sources.list');
  writeFileSync(sources, await aptSources(id, undefined));
  const deb = await makeDeb({ ...parts, out: work, work, run });
  const isShared = Boolean(process.config.variables.node_shared);
  // The upload does not keep the mode.
  const upload = [`upload '${process.execPath}' /usr/local/bin/node`, 'chmod 755 "$1/usr/local/bin/node"'];
  const node = isShared ? ['--include=nodejs'] : upload.map((hook) => `--customize-hook=${hook}`);
  await run('mmdebstrap', [
    '--mode=root',
    '--variant=apt',
    // The path of a package that is no name of one needs an option of its own, and a hook that makes the file visible inside.
    `--include=${deb}`,
    '--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount',
    '--include=libstdc++6,ca-certificates',
    ...node,
    '--dpkgopt=path-exclude=/usr/share/locale/*',
    '--dpkgopt=path-exclude=/usr/share/man/*',
    codename,
    layer,
    sources,
  ]);
}

/** @param {string} layout @param {string} mediaType @param {object} value */
function addJson(layout, mediaType, value) {
  const text = JSON.stringify(value);
  const digest = `sha256:${createHash('sha256').update(text).digest('hex')}`;
  writeFileSync(blob(layout, digest), text);
  return { mediaType, digest, size: Buffer.byteLength(text) };
}

/** Moves the file into the layout. @param {string} layout @param {string} mediaType @param {string} file */
function addFile(layout, mediaType, file) {
  const digest = digestOf(file);
  const { size } = statSync(file);
  renameSync(file, blob(layout, digest));
  return { mediaType, digest, size };
}

/** @param {string} layout @param {string} digest */
function blob(layout, digest) {
  return join(layout, 'blobs', digest.replace(':', '/'));
}

/** @param {string} file */
function digestOf(file) {
  return `sha256:${createHash('sha256').update(readFileSync(file)).digest('hex')}`;
}
