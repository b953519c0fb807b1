//! Terminals of this machine, with what lay in others.

use super::content::{steps, wait, Step, CHARACTERS, ICANON};
use super::*;
use rustix::event::PollFlags;
use shared_region::context::Termios;
use std::io::Read;

fn settings_of(fd: impl AsFd) -> Termios {
    let bytes = terminal::settings(fd).expect("settings");
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Termios {
        flags: [word(0), word(4), word(8), word(12)],
        line: bytes[16],
        characters: bytes[17..36].to_vec(),
        speeds: [word(36), word(40)],
    }
}

#[test]
fn each_character_comes_about_as_what_it_was() {
    let record = PseudoTerminal {
        input: b"a\n|\0\nb".to_vec(),
        ends: vec![1, 2, 3],
        literal: true,
        termios: Termios {
            flags: [0, 0, 0, ICANON],
            ..Termios::default()
        },
        ..PseudoTerminal::default()
    };
    let lines = [
        Step::Plain(b'a'),
        Step::Plain(b'\n'),
        Step::EndOfLine(b'|'),
        Step::EndOfFile,
        Step::Literal(b'\n'),
        Step::Plain(b'b'),
        Step::Prefix,
    ];
    assert_eq!(steps(&record), lines);
    let mut raw = record;
    raw.termios.flags[3] = 0;
    raw.literal = false;
    assert!(steps(&raw).iter().all(|step| matches!(step, Step::Plain(_))));
}

#[test]
fn settings_have_the_size_that_the_kernel_reads() {
    let mut termios = Termios {
        characters: vec![7; CHARACTERS],
        speeds: [1, 2],
        ..Termios::default()
    };
    let bytes = settings(&termios).unwrap();
    assert_eq!((bytes[16], bytes[17], bytes[35], bytes[36], bytes[40]), (0, 7, 7, 1, 2));
    termios.characters.pop();
    assert!(settings(&termios).is_err());
}

/// On a pseudo terminal of the machine that runs the test; putting input back takes root.
#[test]
fn what_lay_in_a_terminal_is_read_from_the_new_one() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let probe = new_master(None).expect("a master");
    let index = terminal::number(&probe).expect("its number");
    let default = settings_of(&probe);
    drop(probe);
    let id = 77;
    let record = PseudoTerminal {
        index,
        slave: SlaveState::Closed,
        owner: (0, 0, 0o620),
        termios: default.clone(),
        window: [33, 44, 5, 6],
        column: 9,
        input: b"one\nlast|rest".to_vec(),
        ends: vec![3, 8],
        typed: b" typed\n".to_vec(),
        output: b"output".to_vec(),
        ..PseudoTerminal::default()
    };
    let mut world = World::default();
    world.terminals.insert(id, record.clone());
    let mut terminals = Terminals::default();
    terminals.make(&world);
    let mut master = std::fs::File::from(terminals.master(id).expect("the master"));
    let mut slave = std::fs::File::from(terminals.slave(id, 0, OFlags::RDWR).expect("a slave"));
    assert!(terminals.complete(&world).is_empty());
    assert_eq!(settings_of(&slave), default);
    let mut buffer = [0; 100];
    let mut read = |file: &mut std::fs::File| {
        let count = file.read(&mut buffer).expect("something to read");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(read(&mut slave), "one\n");
    assert_eq!(read(&mut slave), "last|");
    assert_eq!(read(&mut slave), "rest typed\n");
    // What was typed is shown after what was written before.
    let mut shown = String::new();
    while shown.len() < "output typed\r\n".len() {
        wait(&master, PollFlags::IN).expect("something to read");
        shown += &read(&mut master);
    }
    assert_eq!(shown, "output typed\r\n");
    assert!(terminals.slave(id + 1, 0, OFlags::RDWR).is_err());
}
