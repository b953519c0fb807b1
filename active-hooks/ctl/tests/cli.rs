//! The program as it is called: exit codes, help, errors that name the way out.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orthros-ctl"))
        .args(arguments)
        .output()
        .expect("run the program")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the tests run where there is no module, as they are meant to.
fn without_module() -> bool {
    !std::path::Path::new("/dev/orthros").exists()
}

#[test]
fn without_the_module_the_way_out_is_named() {
    if !without_module() {
        return;
    }
    for command in [
        &["status"] as &[_],
        &["report"],
        &["log"],
        &["protect", "1"],
        &["unprotect", "--all"],
        &["panic-test", "--yes"],
        &["hang-test", "--kind", "all-cpus", "--yes"],
        &["update", "--dry-run"],
        &["stage"],
        &["config"],
    ] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(3), "{command:?}");
        assert!(
            stderr(&output).contains("modprobe orthros"),
            "{command:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    for command in [
        &["protect"] as &[_],
        &["unprotect"],
        &["unprotect", "--all", "5"],
        &["protect", "--comm", "x", "--", "true"],
        &["protect", "five"],
        &["panic-test", "--kind", "meteor"],
        &["hang-test", "--yes"],
        &["update", "--dry-run", "--yes"],
        &["stage", "--initrd", "a", "--auto"],
        &["update", "--wait", "20000"],
        &["config", "hang-cpu", "5", "--json"],
        &["check", "--all", "5"],
        &["nothing"],
    ] {
        assert_eq!(run(command).status.code(), Some(2), "{command:?}");
    }
}

#[test]
fn help_lists_every_command_and_the_exit_codes() {
    let text = stdout(&run(&["--help"]));
    for word in [
        "status",
        "protect",
        "unprotect",
        "check",
        "report",
        "panic-test",
        "hang-test",
        "stage",
        "update",
        "config",
        "check-machine",
        "log",
        "Exit codes",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn the_manual_page_is_made_from_the_help() {
    let text = stdout(&run(&["man"]));
    assert!(
        text.contains(".TH orthros-ctl 8") && text.contains(".SS panic-test"),
        "{text}"
    );
}

#[test]
fn a_process_that_is_not_there_is_named() {
    let output = run(&["check", "4194305"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("no process 4194305"), "{}", stderr(&output));
}

#[test]
fn this_process_is_looked_at() {
    let pid = std::process::id().to_string();
    let output = run(&["check", &pid, "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["version"], 1);
    assert_eq!(value["processes"][0]["pid"].to_string(), pid);
    let expected = if value["survive"] == true { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(expected));
}

#[test]
fn this_machine_is_looked_at() {
    let output = run(&["check-machine", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let items = value["items"].as_array().expect("items");
    assert_eq!(items.len(), 10);
    assert!(items
        .iter()
        .all(|item| !item["text"].as_str().unwrap_or_default().is_empty()));
    let expected = if value["fits"] == true { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(expected));
}
