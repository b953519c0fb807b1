//! The manual page, made from the definition of the command line, so that it says what the program does.

use crate::cli::Arguments;
use crate::exit;
use anyhow::Result;
use clap::{Arg, Command, CommandFactory};
use clap_mangen::roff::{bold, italic, roman, Roff};
use clap_mangen::Man;
use std::io::Write;

/// Writes the page.
pub fn write(out: &mut impl Write) -> Result<()> {
    let mut command = Arguments::command();
    command.build();
    let page = Man::new(command.clone()).section("8");
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in command.get_subcommands().filter(shown) {
        subcommand(&mut roff, command);
    }
    roff.control("SH", ["EXIT STATUS"]);
    // The first line of the help is a heading.
    for line in exit::HELP.lines().skip(1) {
        roff.text([roman(line.trim())]);
        roff.control("br", []);
    }
    roff.control("SH", ["FILES"]);
    roff.control("TP", []);
    roff.text([bold("/dev/orthros")]);
    roff.text([roman("The node of the kernel module; root only.")]);
    roff.to_writer(out)?;
    Ok(())
}

fn subcommand(roff: &mut Roff, command: &Command) {
    roff.control("SS", [command.get_name()]);
    if let Some(about) = command.get_about() {
        roff.text([roman(format!("{about}."))]);
    }
    let shown = |arg: &&Arg| !arg.is_hide_set() && arg.get_id() != "help";
    for arg in command.get_arguments().filter(shown) {
        roff.control("TP", []);
        let value = arg
            .get_value_names()
            .map(|names| names[0].to_string())
            .unwrap_or_default();
        let takes_value = arg.get_action().takes_values();
        let name = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
        match (name.is_empty(), takes_value) {
            (true, _) if arg.is_last_set() => roff.text([bold("-- "), italic(value), roman(" ...")]),
            (true, _) => roff.text([italic(value), roman(" ...")]),
            (false, true) => roff.text([bold(name), roman(" "), italic(value)]),
            (false, false) => roff.text([bold(name)]),
        };
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<_> = arg
            .get_possible_values()
            .iter()
            .map(|value| value.get_name().to_owned())
            .collect();
        if takes_value && !values.is_empty() {
            help += &format!(": {}", values.join(", "));
        }
        roff.text([roman(help + ".")]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_command_and_option_is_in_the_page() {
        let mut page = Vec::new();
        super::write(&mut page).expect("a page");
        let page = String::from_utf8(page).expect("text").replace("\\-", "-");
        for word in [
            ".TH orthros-ctl 8",
            ".SS status",
            ".SS panic-test",
            ".SS stage",
            "--kernel",
            ".SS update",
            ".SS rescue-area",
            "--discard",
            "--dry-run",
            "all-cpus, one-cpu-irq-off, in-nmi, holding-locks, soft-lockup, live-lock, stall",
            "--descendants",
            "-- \\fR\\fICOMMAND",
            "sysrq, panic, null-dereference, bug-in-interrupt, panic-with-spinner",
            ".SH \"EXIT STATUS\"",
            "/dev/orthros",
        ] {
            assert!(page.contains(word), "{word}:\n{page}");
        }
        assert!(!page.contains(".SS man"));
    }
}
