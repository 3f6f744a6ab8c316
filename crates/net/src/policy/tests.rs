use super::*;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);

fn rule(verdict: Verdict, to: Target, ports: &[(u16, u16)]) -> Rule {
    Rule {
        text: format!("{to:?}"),
        verdict,
        to,
        ports: ports.to_vec(),
        transport: None,
    }
}

fn name(name: &str) -> Target {
    Target::Name { name: name.into() }
}

fn below(name: &str) -> Target {
    Target::Below { name: name.into() }
}

fn range(cidr: &str) -> Target {
    Target::Cidr { cidr: cidr.into() }
}

fn rules(rules: Vec<Rule>) -> Rules {
    Rules::new(Policy { rules }).expect("well-formed rules")
}

fn allow(to: Target) -> Rule {
    rule(Verdict::Allow, to, &[])
}

fn to(name: Option<&str>, address: Option<Ipv4Addr>, port: u16) -> Destination<'_> {
    Destination {
        name,
        address,
        transport: Transport::Tcp,
        port,
    }
}

/// The reason for which a destination is denied.
fn reason(rules: &Rules, to: Destination<'_>) -> Option<Reason> {
    match rules.decide(&to, &[Ipv4Addr::new(93, 0, 0, 1)]) {
        Decision::Allow { .. } => None,
        Decision::Deny { reason, .. } => Some(reason),
    }
}

#[test]
fn a_suffix_is_anchored_at_a_dot() {
    let rules = rules(vec![allow(below("example.com"))]);
    let allowed = |name| reason(&rules, to(Some(name), Some(PUBLIC), 443)).is_none() && rules.may_resolve(name);
    assert!(allowed("a.example.com") && allowed("a.b.example.com"));
    for name in ["example.com", "badexample.com", "example.com.evil.org", ".example.com"] {
        assert!(!allowed(name), "{name}");
    }
}

#[test]
fn a_denial_wins_wherever_it_stands() {
    let denial = rule(Verdict::Deny, range("93.184.215.0/24"), &[(1, 1023)]);
    for list in [
        vec![allow(Target::Any), denial.clone()],
        vec![denial, allow(Target::Any)],
    ] {
        let rules = rules(list);
        assert_eq!(reason(&rules, to(None, Some(PUBLIC), 80)), Some(Reason::DeniedByRule));
        // A name does not lead around it.
        assert_eq!(
            reason(&rules, to(Some("a.test"), Some(PUBLIC), 80)),
            Some(Reason::DeniedByRule)
        );
        assert_eq!(reason(&rules, to(Some("a.test"), Some(PUBLIC), 1024)), None);
    }
}

#[test]
fn reserved_addresses_must_be_named_literally() {
    for list in [
        vec![allow(Target::Any)],
        vec![allow(range("0.0.0.0/0"))],
        vec![allow(range("8.0.0.0/5"))],
    ] {
        assert_eq!(
            reason(&rules(list), to(None, Some(PRIVATE), 80)),
            Some(Reason::ReservedAddress)
        );
    }
    for cidr in ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"] {
        assert_eq!(
            reason(&rules(vec![allow(range(cidr))]), to(None, Some(PRIVATE), 80)),
            None,
            "{cidr}"
        );
    }
    // The port of the rule that names the address counts, not another's.
    let narrow = rule(Verdict::Allow, range("10.1.2.3/32"), &[(80, 80)]);
    let both = rules(vec![allow(Target::Any), narrow]);
    assert_eq!(reason(&both, to(None, Some(PRIVATE), 80)), None);
    assert_eq!(
        reason(&both, to(None, Some(PRIVATE), 81)),
        Some(Reason::ReservedAddress)
    );
}

#[test]
fn the_hosts_own_public_address_must_be_named_as_one_address() {
    let own = Ipv4Addr::new(93, 0, 0, 1);
    let of = |cidr| reason(&rules(vec![allow(range(cidr))]), to(None, Some(own), 80));
    assert_eq!(of("93.0.0.0/24"), Some(Reason::ReservedAddress));
    assert_eq!(of("93.0.0.1/32"), None);
}

#[test]
fn a_name_does_not_open_a_literal_address() {
    let rules = rules(vec![allow(name("a.test"))]);
    assert_eq!(reason(&rules, to(Some("a.test"), Some(PUBLIC), 443)), None);
    assert_eq!(reason(&rules, to(None, Some(PUBLIC), 443)), Some(Reason::NoRule));
}

#[test]
fn a_name_resolves_unless_all_that_allows_it_is_denied() {
    let denial = |ports: &[(u16, u16)]| rule(Verdict::Deny, name("a.test"), ports);
    let https = rule(Verdict::Allow, name("a.test"), &[(443, 443)]);
    assert!(rules(vec![https.clone(), denial(&[(80, 80)])]).may_resolve("a.test"));
    assert!(!rules(vec![https.clone(), denial(&[(443, 443)])]).may_resolve("a.test"));
    assert!(!rules(vec![https, denial(&[])]).may_resolve("a.test"));
    assert!(!rules(vec![allow(range("0.0.0.0/0"))]).may_resolve("a.test"));
}

#[test]
fn malformed_rules_are_refused_by_their_text() {
    let long = "a".repeat(64);
    for to in [
        name("A.test"),
        name("a..test"),
        name(""),
        name(&long),
        below("*.test"),
        range("1.2.3.4"),
        range("::/0"),
    ] {
        let fault = Rules::new(Policy {
            rules: vec![allow(to.clone())],
        })
        .expect_err("refused");
        assert_eq!(fault.code, FaultCode::BadRequest);
        assert!(fault.message.contains("rule"), "{}", fault.message);
    }
    let backwards = rule(Verdict::Allow, Target::Any, &[(2, 1)]);
    assert!(Rules::new(Policy { rules: vec![backwards] }).is_err());
    let many = vec![allow(Target::Any); RULES_MAX + 1];
    assert!(Rules::new(Policy { rules: many }).is_err());
}
