/** Writes container images by hand, with whatever oddity a test asks for. */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

/** A member of a layer. Names are bytes: one character each ('latin1'). */
export interface TarMember {
  path: string;
  type?: 'file' | 'hardlink' | 'symlink' | 'directory' | 'fifo';
  data?: Buffer;
  /** The target of a link. */
  link?: string;
  mode?: number;
  uid?: number;
  gid?: number;
  mtime?: number;
  /** Further pax records, such as extended attributes. */
  records?: Readonly<Record<string, string>>;
}

const FLAGS = { file: '0', hardlink: '1', symlink: '2', directory: '5', fifo: '6' };
const BLOCK = 512;

/** A tar archive. Names that do not fit go into pax records, or into GNU's own members before the member that they name. */
export function tarOf(members: readonly TarMember[], format: 'pax' | 'gnu' = 'pax'): Buffer {
  const blocks = members.flatMap((member) => blocksOf(member, format));
  return Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK)]);
}

function blocksOf(member: TarMember, format: 'pax' | 'gnu'): Buffer[] {
  const { path, link = '', data = Buffer.alloc(0), type = 'file' } = member;
  const before: Buffer[] = [];
  const records = { ...member.records };
  if (format === 'pax') {
    if (!isPlain(path)) records.path = path;
    if (!isPlain(link)) records.linkpath = link;
  } else {
    if (path.length > 100) before.push(...content('L', Buffer.from(`${path}\0`, 'latin1')));
    if (link.length > 100) before.push(...content('K', Buffer.from(`${link}\0`, 'latin1')));
  }
  const text = Object.entries(records)
    .map(([key, value]) => recordOf(key, value))
    .join('');
  if (text !== '') before.unshift(...content('x', Buffer.from(text, 'latin1')));
  const size = type === 'file' ? data.length : 0;
  const body = size === 0 ? [] : [data, Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK)];
  return [...before, headerOf(FLAGS[type], size, member), ...body];
}

function isPlain(name: string): boolean {
  return name.length <= 100 && /^[ -~]*$/.test(name);
}

function content(flag: string, data: Buffer): Buffer[] {
  return [headerOf(flag, data.length, { path: 'x' }), data, Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK)];
}

function recordOf(key: string, value: string): string {
  let length = key.length + value.length + 3;
  while (`${length} ${key}=${value}\n`.length !== length) length += 1;
  return `${length} ${key}=${value}\n`;
}

function headerOf(
  flag: string,
  size: number,
  { path, link = '', mode = 0o644, uid = 0, gid = 0, mtime = 1e9 }: TarMember,
): Buffer {
  const block = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, digits: number) => block.write(value.toString(8).padStart(digits, '0'), at);
  block.write(path.slice(0, 100), 0, 'latin1');
  octal(mode, 100, 7);
  octal(uid, 108, 7);
  octal(gid, 116, 7);
  octal(size, 124, 11);
  octal(mtime, 136, 11);
  block.write(`        ${flag}`, 148);
  block.write(link.slice(0, 100), 157, 'latin1');
  block.write('ustar\x0000', 257);
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    6,
  );
  block[154] = 0;
  return block;
}

export interface ImageDescriptor {
  mediaType: string;
  digest: string;
  size: number;
  annotations?: Record<string, string>;
  platform?: { os: string; architecture: string };
}

const OCI = 'application/vnd.oci.image';

/** An OCI image layout that is filled image by image. */
export class ImageLayout {
  readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
  }

  /** Writes one image of these layers, and returns its descriptor. `config` is what the image says of its programs. */
  async image(layers: readonly Buffer[], config?: unknown, architecture = 'amd64'): Promise<ImageDescriptor> {
    const described: ImageDescriptor[] = [];
    for (const layer of layers) described.push(await this.#blob(`${OCI}.layer.v1.tar+gzip`, gzipSync(layer)));
    const diffIds = layers.map((layer) => digestOf(layer));
    const image = { architecture, os: 'linux', rootfs: { type: 'layers', diff_ids: diffIds }, config };
    const about = await this.#json(`${OCI}.config.v1+json`, image);
    return this.#json(`${OCI}.manifest.v1+json`, { schemaVersion: 2, config: about, layers: described });
  }

  /** Writes an index of images, such as one image for several platforms. */
  async index(manifests: readonly ImageDescriptor[]): Promise<ImageDescriptor> {
    return this.#json(`${OCI}.index.v1+json`, { schemaVersion: 2, manifests });
  }

  /** Writes the top of the layout. */
  async finish(...manifests: readonly ImageDescriptor[]): Promise<string> {
    await writeFile(join(this.dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    await writeFile(join(this.dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
    return this.dir;
  }

  async #json(mediaType: string, value: unknown): Promise<ImageDescriptor> {
    return this.#blob(mediaType, Buffer.from(JSON.stringify(value)));
  }

  async #blob(mediaType: string, data: Buffer): Promise<ImageDescriptor> {
    const digest = digestOf(data);
    await mkdir(join(this.dir, 'blobs/sha256'), { recursive: true });
    await writeFile(join(this.dir, 'blobs', ...digest.split(':')), data);
    return { mediaType, digest, size: data.length };
  }
}

/** A layout of one image. */
export async function oneImage(dir: string, layers: readonly Buffer[], config?: unknown): Promise<string> {
  const layout = new ImageLayout(dir);
  return layout.finish(await layout.image(layers, config));
}

function digestOf(data: Buffer): string {
  return `sha256:${createHash('sha256').update(data).digest('hex')}`;
}
