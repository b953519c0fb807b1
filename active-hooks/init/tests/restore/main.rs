//! Restores captured processes on the kernel at hand.
//!
//! The test program is also the program under test: started with `--program NAME` it runs one that goes on for ever
//! and checks itself. Each case starts one, captures it, kills it, restores it from the records, and asks it whether
//! all is as before. Needs root, as the agent does; elsewhere the cases are skipped by name.

mod capture;
mod cases;
mod frames;
mod library;
mod programs;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--program") {
        programs::run(&arguments[at + 1], &arguments[at + 2..]);
    }
    // SAFETY: takes nothing and returns a number.
    if unsafe { libc::geteuid() } != 0 {
        println!("restore: skipped, needs root");
        return;
    }
    let filter = arguments.get(1).filter(|argument| !argument.starts_with('-'));
    let mut failed = 0;
    for (name, case) in cases::ALL {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let passed = cases::in_a_process_of_its_own(*case);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += u32::from(!passed);
    }
    std::process::exit(i32::from(failed != 0));
}
