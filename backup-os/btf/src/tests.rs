//! Tests over small blobs built by hand.

use crate::testing::Builder;
use crate::{Btf, BtfError, Kind, TypeId};
use alloc::string::ToString;
use proptest::prelude::*;

/// Blob with one type of each shape that layout questions meet.
fn sample() -> Builder {
    let mut b = Builder::new();
    let int = b.int("int", 4, true); // 1
    let long = b.int("unsigned long", 8, false); // 2
    let pid_t = b.add("pid_t", 8, 0, false, int, &[]); // 3
    let tag = b.add("user", 18, 0, false, pid_t, &[]); // 4
    let array = b.add("", 3, 0, false, 0, &[long, int, 6]); // 5
    let union = b.aggregate(5, "", 8, false, &[("next", long, 0), ("flags", int, 0)]); // 6
    let inner = b.aggregate(4, "", 16, false, &[("", union, 0), ("count", int, 64)]); // 7
    b.aggregate(
        4,
        "task_struct",
        80,
        true,
        &[
            ("pid", tag, 0),
            ("", inner, 64),
            ("bits", int, 192 | 3 << 24),
            ("more", int, 195 | 5 << 24),
            ("slots", array, 256),
        ],
    ); // 8
    let one = b.string("ONE");
    let minus = b.string("MINUS");
    b.add("small", 6, 2, true, 4, &[one, 1, minus, u32::MAX]); // 9
    let big = b.string("BIG");
    b.add("large", 19, 1, false, 8, &[big, 5, 0x8000_0000]); // 10
    let pointer = b.add("", 2, 0, false, 8, &[]); // 11, to task_struct
    b.aggregate(4, "holder", 16, false, &[("task", pointer, 0), ("nested", 8, 64)]); // 12
    b.add("note", 17, 0, false, 12, &[1]); // 13
    b.add("do_it", 12, 1, false, 0, &[]); // 14
    b
}

#[test]
fn members_are_found_through_anonymous_members() {
    let blob = sample().finish();
    let btf = Btf::parse(&blob).unwrap();
    let task = btf.find_struct("task_struct").unwrap();
    assert_eq!(btf.member(task, "pid").unwrap().offset(), 0);
    assert_eq!(btf.member(task, "flags").unwrap().offset(), 8);
    assert_eq!(btf.member(task, "count").unwrap().offset(), 16);
    let holder = btf.find_struct("holder").unwrap();
    assert_eq!(btf.member(holder, "nested.count").unwrap().offset(), 24);
}

#[test]
fn bit_fields_keep_their_place_in_the_byte() {
    let blob = sample().finish();
    let btf = Btf::parse(&blob).unwrap();
    let task = btf.find_struct("task_struct").unwrap();
    let more = btf.member(task, "more").unwrap();
    assert_eq!((more.offset(), more.bit(), more.bit_size), (24, 3, 5));
}

#[test]
fn sizes_go_through_typedefs_tags_and_arrays() {
    let blob = sample().finish();
    let btf = Btf::parse(&blob).unwrap();
    let task = btf.find_struct("task_struct").unwrap();
    let slots = btf.member(task, "slots").unwrap();
    assert_eq!(btf.size_of(slots.id).unwrap(), 48);
    assert_eq!(btf.array(slots.id).unwrap(), Some((TypeId(2), 6)));
    assert_eq!(btf.size_of(btf.member(task, "pid").unwrap().id).unwrap(), 4);
    assert_eq!(btf.size_of(TypeId(0)), Err(BtfError::NoSize(TypeId(0))));
}

#[test]
fn constants_of_both_widths_and_signs() {
    let blob = sample().finish();
    let btf = Btf::parse(&blob).unwrap();
    assert_eq!(
        ["BIG", "ONE", "NONE", "MINUS"].map(|name| btf.enum_constant(name)),
        [Some(i64::MIN + 5), Some(1), None, Some(-1)]
    );
}

#[test]
fn wrong_questions_name_the_thing() {
    let blob = sample().finish();
    let btf = Btf::parse(&blob).unwrap();
    let task = btf.find_struct("task_struct").unwrap();
    assert_eq!(btf.member(task, "slots.x").unwrap_err().to_string(), {
        "member path `slots.x` of `struct task_struct` goes through something that has no members"
    });
    assert_eq!(
        btf.member(task, "nope").unwrap_err().to_string(),
        "`struct task_struct` has no member `nope`"
    );
    assert_eq!(
        btf.find_struct("nope").unwrap_err().to_string(),
        "BTF has no type `nope`"
    );
}

#[test]
fn a_module_continues_its_kernel() {
    let base_builder = sample();
    let base_blob = base_builder.finish();
    let base = Btf::parse(&base_blob).unwrap();
    let mut b = Builder::split(base.end() - 1, base_builder.strings_len());
    let own = b.aggregate(4, "ext_inode", 88, false, &[("vfs", 8, 64)]);
    let name = b.string("EXT_MAX");
    b.add("", 6, 1, false, 4, &[name, 77]);
    let blob = b.finish();
    let module = Btf::parse_split(&blob, &base).unwrap();
    assert_eq!(module.find_struct("ext_inode").unwrap(), TypeId(own));
    assert_eq!(module.member(TypeId(own), "vfs.count").unwrap().offset(), 24);
    assert_eq!(module.find(Kind::Struct, "holder"), base.find(Kind::Struct, "holder"));
    assert_eq!(
        ["ONE", "EXT_MAX"].map(|name| module.enum_constant(name)),
        [Some(1), Some(77)]
    );
    assert_eq!(module.name(TypeId(8)).unwrap(), "task_struct");
}

#[test]
fn cycles_end_in_an_error() {
    let mut b = Builder::new();
    b.add("a", 8, 0, false, 2, &[]);
    b.add("b", 8, 0, false, 1, &[]);
    b.add("", 3, 0, false, 0, &[3, 1, 2]);
    b.aggregate(4, "self", 8, false, &[("", 4, 0), ("", 4, 0)]);
    let blob = b.finish();
    let btf = Btf::parse(&blob).unwrap();
    assert_eq!(btf.size_of(TypeId(1)), Err(BtfError::TooDeep(TypeId(1))));
    assert_eq!(btf.size_of(TypeId(3)), Err(BtfError::TooDeep(TypeId(3))));
    assert!(matches!(btf.member(TypeId(4), "x"), Err(BtfError::TooDeep(_))));
}

#[test]
fn malformed_blobs_name_what_is_wrong() {
    let good = sample().finish();
    assert_eq!(Btf::parse(&good[..14]).unwrap_err(), BtfError::Header("cut off"));
    assert_eq!(
        Btf::parse(&good[..good.len() - 1]).unwrap_err(),
        BtfError::Section("string")
    );
    let mut bad = good.clone();
    bad[2] = 9;
    assert_eq!(Btf::parse(&bad).unwrap_err(), BtfError::Version(9));
    let mut bad = good.clone();
    bad[24 + 7] = 31;
    assert_eq!(
        Btf::parse(&bad).unwrap_err(),
        BtfError::UnknownKind {
            id: TypeId(1),
            kind: 31
        }
    );
    let mut b = Builder::new();
    b.add("cut", 4, 3, false, 8, &[]);
    assert_eq!(Btf::parse(&b.finish()).unwrap_err(), BtfError::Truncated(TypeId(1)));
}

/// Asks everything of a blob that parsed.
fn exercise(blob: &[u8]) {
    let Ok(btf) = Btf::parse(blob) else { return };
    let _ = btf.enum_constant("ONE");
    let _ = btf.enum_constant("BIG");
    for (id, ty) in btf.own_types() {
        let _ = (
            btf.size_of(id),
            btf.name(id),
            btf.array(id),
            btf.pointee(id),
            ty.tagged_component(),
        );
        for path in ["pid", "count", "nested.flags", "x.y"] {
            let _ = btf.member(id, path);
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        exercise(&bytes);
        for (to, from) in bytes.iter_mut().zip([0x9F, 0xEB, 1, 0, 24, 0, 0, 0]) {
            *to = from;
        }
        exercise(&bytes);
    }

    #[test]
    fn mutated_blobs_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut blob = sample().finish();
        for (place, value) in changes {
            let at = place.index(blob.len());
            blob[at] = value;
        }
        exercise(&blob);
    }
}
