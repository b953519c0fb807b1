//! `include/orthros.h` against the definitions in Rust: a C compiler judges.
//!
//! The macro takes the structures apart without `..`, so a field that was added in Rust and not in C does not compile.

use orthros::{Answer, Call, Failover};
use shared_region::{
    control::Cause,
    library::{answer, planned, RELEASE_SIZE},
};
use std::{
    fmt::Write as _,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

fn assertion(out: &mut String, expression: &str, value: u64) {
    writeln!(
        out,
        "_Static_assert({expression} == {value}ULL, \"{expression} is {value} in Rust\");"
    )
    .unwrap();
}

macro_rules! structure {
    ($out:ident, $rust:path, $c:literal, { $($field:ident),* }) => {{
        #[allow(dead_code)]
        fn all_fields_are_named(value: &$rust) {
            let $rust { $($field: _),* } = value;
        }
        fn size_of_field<T, F>(_: impl Fn(&T) -> &F) -> usize {
            size_of::<F>()
        }
        assertion(&mut $out, &format!("sizeof(struct {})", $c), size_of::<$rust>() as u64);
        $(
            let field = stringify!($field);
            let offset = std::mem::offset_of!($rust, $field) as u64;
            assertion(&mut $out, &format!("offsetof(struct {}, {field})", $c), offset);
            let size = size_of_field(|value: &$rust| &value.$field) as u64;
            assertion(&mut $out, &format!("sizeof(((struct {} *)0)->{field})", $c), size);
        )*
    }};
}

fn assertions() -> String {
    let mut out = String::from("#include <stddef.h>\n#include \"orthros.h\"\n");
    structure!(out, Failover, "orthros_failover", {
        size, cause, count, monotonic_before, monotonic_after, realtime_before, realtime_after, release_before, release_after
    });
    structure!(out, Call, "orthros_call", { size, number, tid, planned, arguments, result, left, at });
    // Its fields are private: they are seen in the dispatcher's tests.
    assertion(&mut out, "sizeof(struct orthros_answer)", size_of::<Answer>() as u64);
    let values = [
        ("RELEASE_SIZE", RELEASE_SIZE as u64),
        ("PLAN_RETRY", planned::RETRY.into()),
        ("PLAN_CONTINUE", planned::CONTINUE.into()),
        ("PLAN_RESULT", planned::RESULT.into()),
        ("PLAN_UNKNOWN", planned::UNKNOWN.into()),
        ("PLANNED", answer::PLANNED),
        ("RETRY", answer::RETRY),
        ("RESULT", answer::RESULT),
    ];
    for (name, value) in values {
        assertion(&mut out, &format!("ORTHROS_{name}"), value);
    }
    for (cause, name) in Cause::ALL {
        let name = name.to_uppercase().replace('-', "_");
        assertion(&mut out, &format!("ORTHROS_CAUSE_{name}"), cause as u64);
    }
    out
}

/// The compiler's messages about a source, empty if it has none.
fn compile(language: &str, standard: &str, source: &str) -> String {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let mut gcc = Command::new("gcc")
        .args(["-fsyntax-only", standard, "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args(["-x", language, "-I"])
        .arg(include)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gcc is needed to check the C header");
    gcc.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    let output = gcc.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), messages.is_empty(), "{messages}");
    messages
}

#[test]
fn the_header_has_the_same_layout() {
    assert_eq!(compile("c", "-std=c11", &assertions()), "");
}

#[test]
fn a_difference_is_found() {
    let mut source = assertions();
    assertion(&mut source, "sizeof(struct orthros_answer)", 17);
    assert!(compile("c", "-std=c11", &source).contains("is 17 in Rust"));
}

#[test]
fn every_constant_of_the_header_is_compared() {
    let header = include_str!("../include/orthros.h");
    let compared = assertions();
    let words = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in words.filter(|word| word.starts_with("ORTHROS_") && *word != "ORTHROS_H") {
        assert!(
            compared.contains(&format!("({name} ==")),
            "{name} is not compared with Rust"
        );
    }
}

#[test]
fn functions_have_the_types_of_the_header() {
    // Each function of the header is one of Rust with arguments of the same number and kind.
    let source = "#include \"orthros.h\"\n\
                  int (*handler)(orthros_handler, void *) = orthros_on_failover;\n\
                  int (*call)(long, orthros_hook, void *) = orthros_on_call;\n\
                  int (*deadline)(unsigned int) = orthros_set_deadline;\n";
    assert_eq!(compile("c", "-std=c99", source), "");
}
