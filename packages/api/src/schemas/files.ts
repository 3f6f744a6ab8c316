import { Type, type Static } from 'typebox';
import { Count, ErrorEvent, field, GuestPath, Nullable } from './common.ts';

const Mode = Type.String({ pattern: '^[0-7]{3,4}$' });
const Owner = Type.String({ minLength: 1, maxLength: 256 });
const OWNER_TEXT = 'owner of what is new: a name, a uid, or either with `:group`. Default: root.';

const path = field(
  GuestPath,
  "Path in the guest. A relative path starts at the image's working directory.",
  '/tmp/hello.txt',
);

export const FileQuery = Type.Object({
  path,
  mode: field(
    Type.Optional(Mode),
    'For PUT: permission bits of a new file, in octal. Default: `0644`. A file that is replaced keeps its own.',
  ),
  user: field(Type.Optional(Owner), `For PUT: ${OWNER_TEXT} A file that is replaced keeps its owner.`),
});
export type FileQuery = Static<typeof FileQuery>;

export const DeleteFileQuery = Type.Object({
  path,
  recursive: field(
    Type.Optional(Type.Boolean({ default: false })),
    'True: remove a directory together with everything in it.',
  ),
});
export type DeleteFileQuery = Static<typeof DeleteFileQuery>;

const directory = field(
  GuestPath,
  "Path of the directory. A relative path starts at the image's working directory.",
  '/tmp',
);

export const DirQuery = Type.Object({ path: directory });
export type DirQuery = Static<typeof DirQuery>;

/** The agent of a sandbox is as old as its template. */
const SINCE_OWNERS = 'Absent if the template was built by an earlier forkd.';

export const DirEntry = Type.Object(
  {
    name: field(
      Type.String(),
      'Name of the entry, without its directory. A name that is not UTF-8 has U+DC00 plus the byte for each byte that is not, ' +
        "as in Python's surrogateescape. In a query such a byte is percent-encoded.",
    ),
    type: field(
      Type.Union([Type.Literal('file'), Type.Literal('dir'), Type.Literal('symlink'), Type.Literal('other')]),
      'Type of the entry. Symbolic links are not followed.',
    ),
    size: field(Count, 'Size in bytes.'),
    mode: field(Type.String(), 'Permission bits, as four octal digits.'),
    mtime_unix: field(Type.Integer(), 'Time of the last change, in seconds since 1970.'),
    uid: field(Type.Optional(Count), `User id of the owner. ${SINCE_OWNERS}`),
    gid: field(Type.Optional(Count), `Group id of the owner. ${SINCE_OWNERS}`),
    target: field(Type.Optional(Type.String()), 'Where a symbolic link leads, as the link says it.'),
  },
  {
    description: 'An entry of a directory.',
    examples: [{ name: 'hello.txt', type: 'file', size: 6, mode: '0644', mtime_unix: 1_767_225_600, uid: 0, gid: 0 }],
  },
);
export type DirEntry = Static<typeof DirEntry>;

export const DirList = Type.Array(DirEntry);

export const StatQuery = Type.Object({
  path,
  follow: field(
    Type.Optional(Type.Boolean({ default: false })),
    'True: describe what is behind symbolic links, instead of the link itself.',
  ),
});
export type StatQuery = Static<typeof StatQuery>;

const { name: _name, uid: _uid, gid: _gid, target: _target, ...entryFacts } = DirEntry.properties;

export const FileStat = Type.Object(
  {
    ...entryFacts,
    uid: field(Count, 'User id of the owner.'),
    gid: field(Count, 'Group id of the owner.'),
    target: field(
      Nullable(Type.String()),
      'Where a symbolic link leads, as the link says it. Null for everything else.',
    ),
  },
  {
    description: 'What is at a path.',
    examples: [{ type: 'file', size: 6, mode: '0644', mtime_unix: 1_767_225_600, uid: 0, gid: 0, target: null }],
  },
);
export type FileStat = Static<typeof FileStat>;

export const MakeDirQuery = Type.Object({
  path: directory,
  mode: field(Type.Optional(Mode), 'Permission bits of a new directory, in octal. Default: `0755`.'),
  user: field(Type.Optional(Owner), `The ${OWNER_TEXT}`),
});
export type MakeDirQuery = Static<typeof MakeDirQuery>;

export const RenameFileRequest = Type.Object(
  { from: path, to: field(GuestPath, 'New path. A file that is there is replaced.', '/tmp/new.txt') },
  { description: 'A file or directory to rename.', examples: [{ from: '/tmp/hello.txt', to: '/tmp/new.txt' }] },
);
export type RenameFileRequest = Static<typeof RenameFileRequest>;

export const WatchQuery = Type.Object({
  path,
  recursive: field(
    Type.Optional(Type.Boolean({ default: false })),
    'True: watch the directories in it too, at most 4096 in all, and those that are made in them later.',
  ),
});
export type WatchQuery = Static<typeof WatchQuery>;

export const FileChangeEvent = Type.Object(
  {
    type: field(
      Type.Union([
        Type.Literal('ready'),
        Type.Literal('create'),
        Type.Literal('modify'),
        Type.Literal('remove'),
        Type.Literal('rename'),
        Type.Literal('overflow'),
      ]),
      '`ready`: the first event; what happens from then on is reported. `create`: something new is at the path, also if it ' +
        'replaced what was there. `modify`: the content, the mode, the owner or the times changed. `remove`: nothing is at the ' +
        'path any more. `rename`: it moved within what is watched. `overflow`: changes came faster than they were read, and ' +
        'some are missing here.',
    ),
    path: field(
      Type.Optional(Type.String()),
      'Path of the file or directory. Absent for `ready` and `overflow`. Bytes that are not UTF-8 are as in the name of a directory entry.',
    ),
    to: field(Type.Optional(Type.String()), 'For `rename`: the new path.'),
  },
  {
    description: 'Something that happened to a file or a directory.',
    examples: [{ type: 'ready' }, { type: 'modify', path: '/srv/app.toml' }],
  },
);
export type FileChangeEvent = Static<typeof FileChangeEvent>;

export const FileWatchEvent = Type.Union([FileChangeEvent, ErrorEvent], {
  description:
    'One event of a watch. If the last is neither `error` nor the `remove` of the watched path, the stream was cut off.',
});
export type FileWatchEvent = Static<typeof FileWatchEvent>;
