//! Compares member offsets and structure sizes of a whole kernel with those that `pahole` prints.
//!
//! Ignored unless asked for: needs `pahole` and a raw BTF file, `ORTHROS_BTF` or the running kernel's own.

use btf::{Btf, Kind};
use std::path::PathBuf;
use std::process::Command;

/// A structure as `pahole` prints it: name, size, and name with bit offset of each member that can be named from outside.
#[derive(Default)]
struct Printed {
    name: String,
    size: u64,
    members: Vec<(String, u64)>,
}

/// Name of the member declared by the text before the comment.
fn declared(text: &str) -> Option<&str> {
    let text = text.trim().trim_end_matches(';');
    if let Some(function) = text.split("(*").nth(1) {
        return function.split(|c: char| !c.is_alphanumeric() && c != '_').next();
    }
    let text = text.split(" __attribute__").next()?.split('[').next()?;
    let text = text.split(':').next()?;
    text.rsplit(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .filter(|name| !name.is_empty())
}

/// Bit offset in a comment like `/*  16: 3   8 */` or `/*  16   8 */`.
fn bit_offset(comment: &str) -> Option<u64> {
    let comment = comment.trim().trim_end_matches("*/").trim();
    let (byte, rest) = comment.split_once(|c: char| !c.is_ascii_digit())?;
    let byte: u64 = byte.parse().ok()?;
    let bit = match comment.split_once(':') {
        Some(_) => rest
            .trim_start_matches([':', ' '])
            .split_whitespace()
            .next()?
            .parse()
            .ok()?,
        None => 0,
    };
    Some(byte * 8 + bit)
}

fn parse(text: &str) -> Vec<Printed> {
    let mut found = Vec::new();
    let mut current: Option<Printed> = None;
    // Number of members known when each open inner aggregate began.
    let mut open: Vec<usize> = Vec::new();
    for line in text.lines() {
        let Some(printed) = &mut current else {
            let name = line.strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {"));
            if let Some(name) = name.filter(|name| !name.contains(' ')) {
                current = Some(Printed {
                    name: name.into(),
                    ..Printed::default()
                });
            }
            continue;
        };
        let trimmed = line.trim();
        if let Some(size) = trimmed.strip_prefix("/* size: ") {
            if open.is_empty() {
                printed.size = size.split(',').next().and_then(|size| size.parse().ok()).unwrap_or(0);
            }
        } else if line.starts_with('}') {
            found.extend(current.take());
            open.clear();
        } else if trimmed.starts_with("struct {") || trimmed.starts_with("union {") || trimmed.ends_with(" {") {
            open.push(printed.members.len());
        } else if let Some(rest) = trimmed.strip_prefix('}') {
            let began = open.pop().unwrap_or(0);
            if let (Some((before, comment)), true) = (rest.split_once("/*"), !rest.trim().starts_with(';')) {
                // A named inner aggregate: its members need its name.
                printed.members.truncate(began);
                if let (Some(name), Some(offset)) = (declared(before), bit_offset(comment)) {
                    printed.members.push((name.into(), offset));
                }
            }
        } else if let Some((before, comment)) = trimmed.split_once("/*") {
            if let (Some(name), Some(offset)) = (declared(before), bit_offset(comment)) {
                printed.members.push((name.into(), offset));
            }
        }
    }
    found
}

#[test]
#[ignore = "needs pahole and a BTF file"]
fn offsets_are_those_of_pahole() {
    let path = std::env::var_os("ORTHROS_BTF").map_or("/sys/kernel/btf/vmlinux".into(), PathBuf::from);
    let blob = std::fs::read(&path).expect("BTF file can be read");
    let output = Command::new("pahole")
        .args(["-F", "btf"])
        .arg(&path)
        .output()
        .expect("pahole runs");
    let printed = parse(&String::from_utf8_lossy(&output.stdout));
    let btf = Btf::parse(&blob).expect("BTF is sound");
    let mut members = 0;
    let mut structures = 0;
    for structure in &printed {
        let id = btf
            .find(Kind::Struct, &structure.name)
            .unwrap_or_else(|| panic!("struct {}", structure.name));
        // Several structures can share a name; ours is the first, which need not be the one printed.
        if btf.size_of(id) != Ok(structure.size) {
            continue;
        }
        structures += 1;
        for (name, offset) in &structure.members {
            let found = btf.member(id, name).map(|member| member.bit_offset);
            if found.as_ref() != Ok(offset) {
                println!("{}.{name}: {found:?}, pahole says {offset}", structure.name);
                continue;
            }
            members += 1;
        }
    }
    let total: usize = printed.iter().map(|structure| structure.members.len()).sum();
    println!(
        "{structures} of {} structures, {members} of {total} members",
        printed.len()
    );
    assert!(
        structures * 100 >= printed.len() * 99,
        "{structures} of {} structures agree",
        printed.len()
    );
    assert!(members * 1000 >= total * 995, "{members} of {total} members agree");
    assert!(members > 20_000, "{members} members compared");
}
