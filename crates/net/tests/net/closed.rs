//! A sandbox without rules reaches nothing, and `any` reaches the public internet only.

use crate::internet::{Echo, local};
use crate::program::Program;
use forkd_protocol::net::Reason;
use std::net::Ipv4Addr;

#[test]
fn nothing_is_reached_without_a_rule_that_names_it() {
    let echo = Echo::start("127.0.0.1:0");
    let any = Echo::start("0.0.0.0:0");
    let own = forkd_linux_sys::net::own_addresses().expect("addresses");
    let mut reserved: Vec<Ipv4Addr> = [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "169.254.169.254",
        "169.254.0.21",
        "100.64.0.1",
    ]
    .map(|address| address.parse().expect("an address"))
    .to_vec();
    reserved.extend(
        ["172.16.0.1", "192.168.1.1", "168.63.129.16", "0.0.0.0"].map(|it| it.parse::<Ipv4Addr>().expect("an address")),
    );
    reserved.extend(own);
    let mut program = Program::start(local("api.test").address);
    let mut records = program.records();
    // A range that only contains reserved addresses among others does not name them.
    for rules in [
        &[][..],
        &["any"],
        &["0.0.0.0/0"],
        &["any", "-127.0.0.0/8", "127.0.0.1/32"],
        &["api.test"],
    ] {
        let (key, mut guest) = program.guest(rules);
        for address in &reserved {
            for port in [echo.port(), any.port()] {
                // A kernel never sends these, so the guest's stack may not either.
                if address.is_unspecified() {
                    continue;
                }
                assert!(guest.connect(*address, port).is_none(), "{address} with {rules:?}");
                let record = records.next();
                assert_eq!((record.address, record.port), (*address, port));
                let reason = record.reason.expect("a reason");
                assert!(
                    matches!(reason, Reason::NoRule | Reason::ReservedAddress | Reason::DeniedByRule),
                    "{reason:?}"
                );
            }
        }
        if rules.contains(&"api.test") || rules == ["any"] {
            // The name is allowed, the address it has is not.
            assert!(guest.connect_to("api.test", echo.port()).is_none());
            assert_eq!(records.next().reason, Some(Reason::ReservedAddress));
        }
        let stats = program.stats(&key);
        assert_eq!((stats.flows_opened, stats.flows_open), (0, 0));
    }
    assert_eq!(echo.connections() + any.connections(), 0);
}

#[test]
fn ports_are_part_of_a_rule() {
    let (good, bad) = (Echo::start("127.0.0.1:0"), Echo::start("127.0.0.1:0"));
    let mut program = Program::start(local("api.test").address);
    let rule = format!("127.0.0.1/32:{}", good.port());
    let (_, mut guest) = program.guest(&[&rule]);
    assert!(guest.connect(Ipv4Addr::LOCALHOST, good.port()).is_some());
    assert!(guest.connect(Ipv4Addr::LOCALHOST, bad.port()).is_none());
    assert_eq!((good.connections(), bad.connections()), (1, 0));
}
