import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import { Count, field, Measure, Nullable } from './common.ts';

const RuleText = Type.String({ minLength: 1, maxLength: limits.networkRuleCharsMax });
const Rules = Type.Array(RuleText, { maxItems: limits.networkRulesMax });

export const NetworkAccess = Type.Union([Type.Literal('none'), Type.Literal('all')]);
export type NetworkAccess = Static<typeof NetworkAccess>;

/** The network policy of a sandbox. The manifest of a snapshot and the record of a sandbox have it too. */
export const NetworkPolicy = Type.Object(
  {
    access: field(
      Type.Optional(NetworkAccess),
      '`none`: only what `allow` lists. `all`: also every public address. Default: `none`.',
    ),
    allow: field(
      Type.Optional(Rules),
      'What may be reached. A rule is a name (`pypi.org`), all names below one (`*.example.com`), an IPv4 address, a range ' +
        '(`10.1.0.0/16`) or the name of a preset, each with an optional port or range of ports (`:443`, `:8000-8010`) and ' +
        'protocol (`/tcp`, `/udp`; a name is for TCP). Private, loopback, link-local and multicast addresses, and those of the ' +
        'host, need a rule that names them, even where a name that is allowed resolves to one.',
    ),
    deny: field(Type.Optional(Rules), 'What may not be reached, whatever else allows it. Rules as in `allow`.'),
  },
  {
    description: 'What a sandbox may reach. Without any field: nothing.',
    examples: [{ access: 'none', allow: ['pypi.org:443', 'files.pythonhosted.org:443'], deny: [] }],
  },
);
export type NetworkPolicy = Static<typeof NetworkPolicy>;

/** The network of a snapshot, as its manifest has it. */
export const SnapshotNetwork = Type.Object({
  /** The policy that its children start with. */
  policy: NetworkPolicy,
  /** The names and connections that its guest knows: deflated JSON of the network process, in base64. */
  inherited: Nullable(Type.String({ maxLength: limits.networkInheritedCharsMax })),
});
export type SnapshotNetwork = Static<typeof SnapshotNetwork>;

export const NetworkPreset = Type.Object(
  {
    name: field(Type.String(), 'Name of the preset, which a rule can have in place of its rules.'),
    rules: field(Type.Array(Type.String()), 'The rules that it stands for.'),
  },
  {
    description: 'Rules of a network that have a name.',
    examples: [{ name: 'python-packages', rules: ['pypi.org:443', 'files.pythonhosted.org:443'] }],
  },
);
export type NetworkPreset = Static<typeof NetworkPreset>;
export const NetworkPresetList = Type.Array(NetworkPreset);

export const NetworkFlow = Type.Object(
  {
    sandbox: field(Type.String(), 'Id of the sandbox.'),
    time_unix_ms: field(Count, 'When it happened, in milliseconds since 1970.'),
    phase: field(
      Type.Union([Type.Literal('opened'), Type.Literal('closed'), Type.Literal('denied')]),
      '`opened`: the connection was made. `closed`: it ended. `denied`: it was not allowed.',
    ),
    direction: field(
      Type.Union([Type.Literal('out'), Type.Literal('in')]),
      '`out`: the guest called. `in`: a caller reached a port of the guest.',
    ),
    protocol: field(
      Nullable(Type.Union([Type.Literal('tcp'), Type.Literal('udp')])),
      'Transport protocol. Null: a packet of another protocol, which is never passed on.',
    ),
    name: field(Nullable(Type.String()), 'Name that the guest asked for. Null: it gave an address.'),
    address: field(Type.String(), 'Address that was dialled, or that the guest tried to reach.'),
    port: field(Count, 'Port of the destination. 0 if the protocol has none.'),
    rule: field(Nullable(Type.String()), 'The rule that decided. Null: no rule matched.'),
    reason: field(Nullable(Type.String()), 'Why it was denied or ended early, as a stable word such as `no_rule`.'),
    sent_bytes: field(Count, 'Bytes that the guest sent.'),
    received_bytes: field(Count, 'Bytes that the guest received.'),
    duration_ms: field(Measure, 'How long it was open, in milliseconds.'),
    lost: field(Count, 'Number of records before this one that were dropped because there were too many.'),
  },
  {
    description: 'A connection or a packet of a sandbox, and what became of it.',
    examples: [
      {
        sandbox: 'sb-3f9a1c0b7e',
        time_unix_ms: 1_767_225_600_000,
        phase: 'closed',
        direction: 'out',
        protocol: 'tcp',
        name: 'pypi.org',
        address: '151.101.0.223',
        port: 443,
        rule: 'pypi.org:443',
        reason: null,
        sent_bytes: 1204,
        received_bytes: 48_213,
        duration_ms: 310,
        lost: 0,
      },
    ],
  },
);
export type NetworkFlow = Static<typeof NetworkFlow>;

export const NetworkFlowsQuery = Type.Object({
  sandbox: field(Type.Optional(Type.String()), 'Only flows of this sandbox: its id or its name.'),
  follow: field(
    Type.Optional(Type.Boolean({ default: false })),
    'True: keep the stream open, and send new records as they appear.',
  ),
});
export type NetworkFlowsQuery = Static<typeof NetworkFlowsQuery>;

export const CreatePortUrlRequest = Type.Object(
  {
    port: field(Type.Integer({ minimum: 1, maximum: 65_535 }), 'TCP port in the guest, of a service that speaks HTTP.'),
    expires_secs: field(
      Type.Optional(Type.Integer({ minimum: 1, maximum: limits.portUrlSecsMax, default: limits.portUrlSecsDefault })),
      'How long the URL is of use without a token, in seconds. Without effect where the controller asks for no token.',
    ),
  },
  { description: 'A port whose URL is asked for.', examples: [{ port: 8000, expires_secs: 3600 }] },
);
export type CreatePortUrlRequest = Static<typeof CreatePortUrlRequest>;

export const PortUrl = Type.Object(
  {
    url: field(
      Type.String(),
      'The URL of the root of the service. A caller that has it may call this port until it expires.',
    ),
    expires_at_unix: field(
      Nullable(Count),
      'When the URL is of no use any more, in seconds since 1970. `null`: the controller asks for no token.',
    ),
  },
  {
    description: 'Where a port of a sandbox is called.',
    examples: [{ url: 'http://8000-sb-3f9a1c0b7e.localhost:8889/', expires_at_unix: null }],
  },
);
export type PortUrl = Static<typeof PortUrl>;

export const PortParams = Type.Object({
  id: field(Type.String(), 'Id or name of the sandbox.', 'sb-3f9a1c0b7e'),
  port: field(Type.Integer({ minimum: 1, maximum: 65_535 }), 'TCP port in the guest.', 8000),
});
export type PortParams = Static<typeof PortParams>;
