import { Type, type Static } from 'typebox';
import { Count, GuestPath } from './common.ts';

export const FileQuery = Type.Object({
  /** A relative one is taken from the image's working directory. */
  path: GuestPath,
  /** For PUT: permission bits in octal, such as `0755`; 0644 when left out. Folders that are missing are made. */
  mode: Type.Optional(Type.String({ pattern: '^[0-7]{3,4}$' })),
});
export type FileQuery = Static<typeof FileQuery>;

export const DeleteFileQuery = Type.Object({
  path: GuestPath,
  /** A directory with all that is in it. */
  recursive: Type.Optional(Type.Boolean({ default: false })),
});
export type DeleteFileQuery = Static<typeof DeleteFileQuery>;

export const DirQuery = Type.Object({ path: GuestPath });
export type DirQuery = Static<typeof DirQuery>;

export const DirEntry = Type.Object({
  name: Type.String(),
  /** Of the entry itself: a link is a link, whatever it points to. */
  type: Type.Union([Type.Literal('file'), Type.Literal('dir'), Type.Literal('symlink'), Type.Literal('other')]),
  /** In bytes. */
  size: Count,
  /** Permission bits in octal, four digits. */
  mode: Type.String(),
  mtime_unix: Type.Integer(),
});
export type DirEntry = Static<typeof DirEntry>;

export const DirList = Type.Array(DirEntry);
