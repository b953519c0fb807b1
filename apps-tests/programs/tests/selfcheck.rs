//! Every cell passes without a failure in between, and fails when it is mutated; the table is whole and up to date.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_selfcheck");
const SKIPPED: i32 = 77;

fn listing() -> Value {
    let output = Command::new(PROGRAM)
        .args(["--list", "--json"])
        .output()
        .expect("run the program");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().expect("an array");
    list.iter()
        .map(|text| text.as_str().expect("a string").to_owned())
        .collect()
}

fn cells() -> Vec<String> {
    let listing = listing();
    let list = listing["cells"].as_array().expect("an array");
    list.iter()
        .map(|cell| cell["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// The folder for the files of one kind of run.
fn folder(place: &str, mutate: bool) -> PathBuf {
    std::env::temp_dir().join(format!("selfcheck-{}-{place}-{mutate}", std::process::id()))
}

/// Runs a cell in a process of its own, with a failover assumed. Returns exit code and output.
fn run(cell: &str, place: &str, mutate: bool) -> (i32, String) {
    /// A cell takes a few hundred milliseconds; one that waits for ever must not stop the rest.
    const DEADLINE: Duration = Duration::from_secs(30);
    let folder = folder(place, mutate);
    std::fs::create_dir_all(&folder).expect("a folder for the files");
    // A child that outlives its cell must not write into what the next one says.
    let path = folder.join(format!("output-{}", cell.replace('/', "-")));
    let output = File::create(&path).expect("a file for the output");
    let mut child = Command::new(PROGRAM)
        .args([cell, "--at", place])
        .args(["--assume-failover-after-ms", "40", "--period-ms", "30", "--directory"])
        .arg(&folder)
        .args(mutate.then_some("--mutate"))
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a second descriptor"))
        .stderr(output)
        .spawn()
        .expect("run the program");
    let start = Instant::now();
    let code = loop {
        match child.try_wait().expect("wait for the program") {
            Some(status) => break status.code().unwrap_or(-1),
            None if start.elapsed() > DEADLINE => {
                let _ = child.kill();
                let _ = child.wait();
                break -2;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    (code, std::fs::read_to_string(path).unwrap_or_default())
}

/// Runs every cell and returns what is wrong, with a list of the cells that cannot be run here.
fn run_all(place: &str, mutate: bool) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut skipped) = (Vec::new(), Vec::new());
    for cell in cells() {
        let (code, text) = run(&cell, place, mutate);
        if code == SKIPPED {
            skipped.push(format!("{cell}: {text}"));
            continue;
        }
        let verdict = text.lines().last().unwrap_or_default();
        let expected = if mutate { "CELL FAIL " } else { "CELL OK" };
        if !verdict.starts_with(expected) || code != i32::from(mutate) || !text.starts_with("READY\n") {
            wrong.push(format!("{cell} (exit code {code}):\n{text}"));
        }
    }
    let _ = std::fs::remove_dir_all(folder(place, mutate));
    (wrong, skipped)
}

fn expect_right(place: &str, mutate: bool) {
    let (wrong, skipped) = run_all(place, mutate);
    eprintln!("skipped: {skipped:#?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(skipped.len() * 4 < cells().len(), "too many cells cannot be run here");
}

#[test]
fn every_cell_passes_when_nothing_was_lost() {
    expect_right("nanosleep", false);
}

#[test]
fn every_cell_passes_in_user_mode() {
    expect_right("user", false);
}

#[test]
fn every_cell_fails_when_it_is_mutated() {
    expect_right("nanosleep", true);
}

#[test]
fn the_other_places_can_be_waited_in() {
    for place in ["vdso", "futex", "poll", "sigtimedwait"] {
        let (code, text) = run("memory/private", place, false);
        assert_eq!(code, 0, "{place}: {text}");
    }
}

#[test]
fn an_unknown_cell_is_named() {
    let output = Command::new(PROGRAM).arg("no/such").output().expect("run the program");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no cell `no/such`"));
}

#[test]
fn start_all_and_collect_add_up() {
    let folder = std::env::temp_dir().join(format!("selfcheck-all-{}", std::process::id()));
    let common = ["--only", "pipes/", "--directory"];
    let start = Command::new(PROGRAM)
        .args(["--start-all", "--assume-failover-after-ms", "200"])
        .args(common)
        .arg(&folder)
        .output()
        .expect("run the program");
    assert!(start.status.success(), "{start:?}");
    let collect = Command::new(PROGRAM)
        .arg("--collect")
        .args(common)
        .arg(&folder)
        .output()
        .expect("run the program");
    let text = String::from_utf8_lossy(&collect.stdout);
    assert!(
        collect.status.success() && text.contains("CELLS 7 as expected, 0 not"),
        "{text}"
    );
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn the_coverage_table_is_up_to_date() {
    let output = Command::new(PROGRAM)
        .arg("--coverage")
        .output()
        .expect("run the program");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../COVERAGE.md");
    let stored = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        String::from_utf8_lossy(&output.stdout) == stored,
        "write it anew: selfcheck --coverage > apps-tests/COVERAGE.md"
    );
}

/// Records that describe the failure rather than a process, and the ids that only tie records together.
const NO_STATE: [&str; 9] = [
    "Lost",
    "Evidence",
    "Summary",
    "Outcome",
    "Cost",
    "FileCache",
    "FileSystem",
    "FrameRun",
    "Mount",
];

/// The fields and variants of the record definitions, as `Record.field`.
fn record_fields() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared-region/src/context");
    let source: String = fs::read_dir(folder)
        .expect("record definitions")
        .map(|file| fs::read_to_string(file.expect("a file").path()).expect("text"))
        .collect();
    let mut fields = BTreeSet::new();
    let mut record: Option<(String, &str)> = None;
    for line in source.lines() {
        let words: Vec<&str> = line.trim().split([' ', '(', '{', ':', ',', ';']).collect();
        match (line.starts_with("pub "), words.as_slice()) {
            (true, ["pub", kind @ ("struct" | "enum" | "mod"), name, ..]) if line.ends_with('{') => {
                record = Some((name.to_string(), kind));
            }
            _ if line == "}" => record = None,
            _ => {
                let Some((name, kind)) = &record else { continue };
                let indent = line.len() - line.trim_start().len();
                let field = match (*kind, words.as_slice()) {
                    ("struct", ["pub", field, ..]) => Some(*field),
                    ("mod", ["pub", "const", field, ..]) => Some(*field),
                    ("enum", [variant, ..]) if indent == 4 && variant.starts_with(char::is_uppercase) => Some(*variant),
                    _ => None,
                };
                if let Some(field) = field.filter(|_| indent == 4 && !NO_STATE.contains(&name.as_str())) {
                    fields.insert(format!("{name}.{field}"));
                }
            }
        }
    }
    fields
}

#[test]
fn every_record_field_is_observed_or_named() {
    let listing = listing();
    let mut named: BTreeSet<String> = strings(&listing["not_observed"]).into_iter().collect();
    for cell in listing["cells"].as_array().expect("an array") {
        named.extend(strings(&cell["covers"]));
    }
    let fields = record_fields();
    assert!(fields.len() > 100, "the definitions were not read: {fields:?}");
    let missing: Vec<_> = fields.difference(&named).collect();
    assert!(missing.is_empty(), "observed by no cell and not named: {missing:?}");
    let records: BTreeSet<&str> = fields.iter().filter_map(|field| field.split('.').next()).collect();
    let stale: Vec<_> = named
        .difference(&fields)
        .filter(|field| {
            field
                .split_once('.')
                .is_some_and(|(record, _)| records.contains(record))
        })
        .collect();
    assert!(stale.is_empty(), "no such fields any more: {stale:?}");
}
