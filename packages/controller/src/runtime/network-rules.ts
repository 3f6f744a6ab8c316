import { isIPv4, isIPv6 } from 'node:net';
import { ApiError, limits, type NetworkPolicy } from '@forkd/api';
import type { Policy, Rule } from '@forkd/engine';
import { networkPresets } from './network-presets.ts';

type Verdict = Rule['verdict'];
type Target = Rule['to'];

const LABEL = '(?!-)[a-z0-9_-]{1,63}(?<!-)';
const NAME = new RegExp(`^(?=.{1,253}$)${LABEL}(\\.${LABEL})+$`);
const RULE = /^(?<target>.+?)(?::(?<first>\d{1,5})(?:-(?<last>\d{1,5}))?)?(?:\/(?<transport>tcp|udp))?$/;
const PORT_MAX = 65_535;

/** The policy as the network process takes it. Throws `bad_request`, naming the rule that is none. */
export function policyOf({ access = 'none', allow = [], deny = [] }: NetworkPolicy): Policy {
  const everything = access === 'all' ? [anything('all', 'allow')] : [];
  const rules = [...deny.flatMap((text) => rulesOf(text, 'deny')), ...everything];
  rules.push(...allow.flatMap((text) => rulesOf(text, 'allow')));
  if (rules.length <= limits.networkRulesMax * 2) return { rules };
  throw new ApiError('bad_request', `A network has at most ${limits.networkRulesMax * 2} rules, not ${rules.length}.`);
}

function anything(text: string, verdict: Verdict): Rule {
  return { text, verdict, to: { kind: 'any' }, ports: [], transport: null };
}

/** The rules that a text stands for: several if it is the name of a preset. */
function rulesOf(text: string, verdict: Verdict): Rule[] {
  if (!Object.hasOwn(networkPresets, text)) return [ruleOf(text, text, verdict)];
  return (networkPresets[text] ?? []).map((rule) => ruleOf(rule, `${text}: ${rule}`, verdict));
}

/** `shown` is how the log names the rule. */
function ruleOf(text: string, shown: string, verdict: Verdict): Rule {
  const { target = '', first, last, transport } = RULE.exec(text)?.groups ?? {};
  const to = targetOf(target.toLowerCase());
  if (to === null) throw notARule(text, target);
  const ports: Rule['ports'] = first === undefined ? [] : [portsOf(text, first, last ?? first)];
  return { text: shown, verdict, to, ports, transport: transportOf(transport, to, verdict) };
}

/** A name that is allowed is allowed for TCP, unless the rule says UDP. What is denied is denied for both. */
function transportOf(given: string | undefined, { kind }: Target, verdict: Verdict): Rule['transport'] {
  if (given === 'tcp' || given === 'udp') return given;
  return verdict === 'allow' && (kind === 'name' || kind === 'below') ? 'tcp' : null;
}

function targetOf(text: string): Target | null {
  if (text === '*') return { kind: 'any' };
  if (text.startsWith('*.')) return NAME.test(text.slice(2)) ? { kind: 'below', name: text.slice(2) } : null;
  if (isIPv4(text)) return { kind: 'cidr', cidr: `${text}/32` };
  const [address = '', bits = ''] = text.split('/');
  if (isIPv4(address)) return isRange(address, bits) ? { kind: 'cidr', cidr: text } : null;
  // A name whose last label is a number would be an address that somebody mistyped.
  return NAME.test(text) && !/\.\d+$/.test(text) ? { kind: 'name', name: text } : null;
}

/** True if no bit is set beyond the first `bits`: a range that says something else than it means is a mistake. */
function isRange(address: string, bits: string): boolean {
  if (!/^\d{1,2}$/.test(bits) || Number(bits) > 32) return false;
  const value = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  return value % 2 ** (32 - Number(bits)) === 0;
}

function portsOf(text: string, first: string, last: string): [number, number] {
  const ports: [number, number] = [Number(first), Number(last)];
  if (ports[0] >= 1 && ports[0] <= ports[1] && ports[1] <= PORT_MAX) return ports;
  throw new ApiError('bad_request', `The network rule ${JSON.stringify(text)}: a port is 1 to ${PORT_MAX}.`);
}

function notARule(text: string, target: string): ApiError {
  const why =
    isIPv6(target.replace(/\/\d+$/, '')) || target.includes(':') ? 'guests have IPv4 only' : 'it is no target';
  return new ApiError('bad_request', `The network rule ${JSON.stringify(text)} cannot be read: ${why}.`, {
    hint:
      'Write a name (pypi.org, *.example.com), an address, a range (10.1.0.0/16, with no bit beyond its 16) or a preset ' +
      `(${Object.keys(networkPresets).join(', ')}); then :PORT or :FIRST-LAST, and /tcp or /udp.`,
  });
}
