import { promisify } from 'node:util';
import { deflateRaw, inflateRaw } from 'node:zlib';
import { limits as apiLimits, SnapshotNetwork } from '@forkd/api';
import type { Inherited } from '@forkd/engine';
import { Compile } from 'typebox/compile';
import { limits } from '../limits.ts';

const validator = Compile(SnapshotNetwork);

/**
 * The network of a snapshot whose machine has a network device, from its manifest. What cannot be read closes the network of
 * its children, rather than open it.
 */
export function snapshotNetworkOf(hasDevice: boolean, stored: unknown): SnapshotNetwork | null {
  if (!hasDevice) return null;
  return validator.Check(stored) ? stored : { policy: {}, inherited: null };
}

/** Packs what the children of a snapshot inherit for its manifest. `null` if it is too long. */
export async function packInherited(inherited: Inherited): Promise<string | null> {
  const packed = await promisify(deflateRaw)(JSON.stringify(inherited));
  const text = packed.toString('base64');
  return text.length <= apiLimits.networkInheritedCharsMax ? text : null;
}

/** The network process checks what it is given: here only the size is bounded. Throws for what was not packed. */
export async function unpackInherited(packed: string | null): Promise<Inherited | null> {
  if (packed === null) return null;
  const options = { maxOutputLength: limits.inheritedBytesMax };
  const text = await promisify(inflateRaw)(Buffer.from(packed, 'base64'), options);
  return JSON.parse(text.toString('utf8')) as Inherited;
}
