use super::*;
use crate::takeover::netlink::message;

const INET: u8 = 1;

fn listed(kind: u16, body: Payload) -> Vec<u8> {
    message(NFTABLES << 8 | kind, 0, 7, &body)
}

fn head() -> Payload {
    Payload::new(&[INET, 0, 0, 1])
}

#[test]
fn what_the_kernel_numbers_itself_is_left_out() {
    let list = [
        listed(
            TABLE,
            head()
                .with(1, b"t\0")
                .with(TABLE_FLAGS, &3u32.to_be_bytes())
                .with(3, &[0; 4])
                .with(4, &[0; 8]),
        ),
        listed(
            CHAIN,
            head().with(1, b"t\0").with(2, &[0; 8]).with(3, b"c\0").with(6, &[0; 4]),
        ),
        listed(
            RULE,
            head()
                .with(1, b"t\0")
                .with(2, b"c\0")
                .with(3, &[0; 8])
                .with(6, &[0; 8])
                .with(7, b"x"),
        ),
    ]
    .concat();
    let made = requests(&list).expect("requests");
    let bodies: Vec<&[u8]> = made.iter().map(|(_, _, payload)| payload.bytes()).collect();
    let expected = [
        head().with(1, b"t\0").with(TABLE_FLAGS, &1u32.to_be_bytes()),
        head().with(1, b"t\0").with(3, b"c\0"),
        head()
            .with(1, b"t\0")
            .with(2, b"c\0")
            .with(7, b"x")
            .with(RULE_EXPRESSIONS | NESTED, &[]),
    ];
    assert_eq!(bodies, expected.iter().map(Payload::bytes).collect::<Vec<_>>());
    assert_eq!(
        made.iter().map(|request| request.1).collect::<Vec<_>>(),
        [CREATE, CREATE, CREATE | APPEND]
    );
}

#[test]
fn rules_of_a_younger_chain_come_first() {
    let chain = |name: &[u8]| listed(CHAIN, head().with(1, b"t\0").with(3, name));
    let rule = |chain: &[u8]| listed(RULE, head().with(1, b"t\0").with(2, chain));
    let list = [chain(b"a\0"), chain(b"b\0"), rule(b"a\0"), rule(b"b\0")].concat();
    let made = requests(&list).expect("requests");
    let (_, _, first) = &made[2];
    assert_eq!(
        first.bytes(),
        head()
            .with(1, b"t\0")
            .with(2, b"b\0")
            .with(RULE_EXPRESSIONS | NESTED, &[])
            .bytes()
    );
}

#[test]
fn ranges_come_in_order() {
    let element = |value: u8| Payload::default().with(1, &[value]);
    let list = |flags: u32| {
        let elements = Payload::default()
            .with(1, element(9).bytes())
            .with(1, element(4).bytes());
        [
            listed(
                SET,
                head().with(1, b"t\0").with(2, b"s\0").with(3, &flags.to_be_bytes()),
            ),
            listed(
                ELEMENTS,
                head().with(1, b"t\0").with(2, b"s\0").with(3, elements.bytes()),
            ),
        ]
        .concat()
    };
    let last = |flags| requests(&list(flags)).expect("requests").pop().expect("elements").2;
    let values = |payload: &Payload| {
        let list = attribute_of(&payload.bytes()[4..], LIST_ELEMENTS)
            .expect("list")
            .to_vec();
        attributes(&list)
            .map(|(_, element)| attribute_of(element, 1).expect("value")[0])
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&last(INTERVAL)), [4, 9]);
    assert_eq!(values(&last(INTERVAL | CONCATENATED)), [9, 4]);
}

#[test]
fn a_rule_with_a_match_of_iptables_names_its_protocol() {
    let expression = |name: &[u8], data: Payload| Payload::default().with(1, name).with(2, data.bytes());
    let number = |value: u32| value.to_be_bytes();
    let meta = expression(b"meta\0", Payload::default().with(2, &number(16)).with(1, &number(1)));
    let value = Payload::default().with(1, &[6]);
    let compare = expression(
        b"cmp\0",
        Payload::default()
            .with(1, &number(1))
            .with(2, &number(0))
            .with(3, value.bytes()),
    );
    let matched = expression(b"match\0", Payload::default().with(1, b"tcp\0"));
    let all = |list: &[&Payload]| {
        list.iter()
            .fold(Payload::default(), |all, one| all.with(1, one.bytes()))
    };
    let protocol = |list: &[&Payload]| compat::protocol(all(list).bytes(), libc::AF_INET as u8);
    assert_eq!(protocol(&[&meta, &compare, &matched]), Some((6, false)));
    assert_eq!(protocol(&[&meta, &compare]), None);
    assert_eq!(protocol(&[&matched]), Some((0, false)));
}

#[test]
fn nonsense_is_refused() {
    assert!(requests(&[1, 2, 3]).is_err());
    assert!(requests(&listed(250, head())).is_err());
    assert!(requests(&listed(RULE, head().with(1, b"t\0").with(2, b"c\0"))).is_err());
}

/// What the module does: lists of all kinds, and of the elements of each set.
fn listed_by_the_kernel() -> Vec<u8> {
    use crate::restore::sockets::raw;
    const DUMP: u16 = 0x301;
    let socket = raw::socket(libc::AF_NETLINK as u32, libc::SOCK_RAW as u32, 12).expect("netlink");
    rustix::fs::fcntl_setfl(&socket, rustix::fs::OFlags::empty()).expect("blocking");
    let list = |kind: u16, payload: &Payload| {
        raw::send(&socket, &message(NFTABLES << 8 | kind, DUMP, 0, payload)).expect("asked");
        let mut all = Vec::new();
        loop {
            let mut buffer = vec![0; 1 << 16];
            let length = raw::receive(&socket, &mut buffer).expect("a list");
            buffer.truncate(length);
            let mut rest = &buffer[..];
            while let Some(first) = rest.first_chunk() {
                let length = u32::from_ne_bytes(*first) as usize;
                // NLMSG_DONE.
                if rest[4..6] == [3, 0] {
                    return all;
                }
                let (one, others) = rest.split_at(length.next_multiple_of(4));
                all.extend(one);
                rest = others;
            }
        }
    };
    let everything = Payload::new(&[0; 4]);
    let mut all = Vec::new();
    for kind in [TABLE, CHAIN, FLOWTABLE, OBJECT, SET, RULE] {
        let part = list(kind + 1, &everything);
        all.extend(&part);
        for set in messages(&part).filter(|_| kind == SET) {
            let set = set.expect("whole");
            let name = |kind| attribute(&set, kind).expect("a name");
            let request = Payload::new(&[set.head[0], 0, 0, 0])
                .with(1, name(SET_TABLE))
                .with(2, name(SET_NAME));
            all.extend(list(ELEMENTS + 1, &request));
        }
    }
    all
}

/// In a network namespace of its own: `unshare -n cargo test -p orthros-init --lib -- --ignored rules`.
#[test]
#[ignore = "needs a network namespace of its own, and nft"]
fn rules_are_as_they_were() {
    use crate::takeover::netlink::{Netlink, NETFILTER};
    use std::process::Command;
    let nft = |words: &str| {
        let output = Command::new("nft").args(words.split(' ')).output().expect("nft");
        assert!(output.status.success(), "nft {words}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for rules in [
        include_str!("all.nft"),
        include_str!("../../../../../../apps-tests/scenarios/firewall/rules.nft"),
    ] {
        let file = std::env::temp_dir().join(format!("orthros-rules-{}", std::process::id()));
        std::fs::write(&file, rules).expect("a file");
        nft(&format!("-f {}", file.display()));
        std::fs::remove_file(&file).expect("removed");
        let before = nft("list ruleset");
        let made = requests(&listed_by_the_kernel()).expect("requests");
        nft("flush ruleset");
        let netlink = Netlink::open_to(NETFILTER).expect("netlink");
        netlink.ask_together(BEGIN, END, &made).expect("taken");
        assert_eq!(nft("list ruleset"), before);
        // All or nothing.
        nft("flush ruleset");
        let mut wrong = made;
        wrong.push((
            NFTABLES << 8 | RULE,
            CREATE,
            Payload::new(&[INET, 0, 0, 0]).with(1, b"none\0").with(2, b"none\0"),
        ));
        netlink.ask_together(BEGIN, END, &wrong).expect_err("refused");
        assert_eq!(nft("list ruleset"), "");
    }
}
