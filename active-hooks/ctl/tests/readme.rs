//! The README keeps up with the program.

use boot_plan::parameters::PARAMETERS;

const README: &str = include_str!("../../../README.md");

#[test]
fn every_kernel_parameter_is_explained() {
    for parameter in PARAMETERS {
        assert!(README.contains(&format!("`{}", parameter.name)), "{}", parameter.name);
    }
}

#[test]
fn every_command_is_shown() {
    for command in [
        "status",
        "protect",
        "unprotect",
        "check",
        "report",
        "panic-test",
        "hang-test",
        "update",
        "config",
        "check-machine",
        "log",
        "man",
    ] {
        assert!(README.contains(&format!("orthros-ctl {command}")), "{command}");
    }
}
