//! The program from outside: what it refuses, and what it says about real images.

use assert_cmd::Command;
use std::io::Write;
use std::path::PathBuf;

fn inspect() -> Command {
    Command::cargo_bin("orthros-inspect").expect("the program is built")
}

/// Runs with one file of the given bytes; returns exit code and standard error.
fn refused(bytes: &[u8]) -> (Option<i32>, String) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("written");
    let output = inspect().arg(file.path()).output().expect("it runs");
    assert!(output.stdout.is_empty(), "nothing is shown of a refused image");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn help_tells_the_exit_codes() {
    let output = inspect().arg("--help").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("Exit status"), "{text}");
}

#[test]
fn wrong_usage_is_told_apart() {
    assert_eq!(inspect().output().expect("it runs").status.code(), Some(2));
    let output = inspect()
        .args(["--ram-below-4g", "many", "x"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`many` is not a size"));
}

#[test]
fn what_is_no_image_is_named() {
    let output = inspect().arg("/nonexistent/image").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot open /nonexistent/image"));

    let output = inspect().arg("/dev/null").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/null is not a regular file"));

    let (code, error) = refused(b"");
    assert!(code == Some(1) && error.contains("is empty"), "{error}");
    let (code, error) = refused(&[0; 1 << 16]);
    assert!(code == Some(1) && error.contains("no VMCOREINFO found"), "{error}");
}

#[test]
fn a_text_without_its_kernel_is_stale() {
    let mut image = vec![0; 1 << 16];
    let text = b"OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)=ffffffff82002000\nSYMBOL(_stext)=ffffffff81000000\n\
                 SYMBOL(init_uts_ns)=ffffffff82003000\nNUMBER(phys_base)=0\n";
    image[0x2000..][..text.len()].copy_from_slice(text);
    let (code, error) = refused(&image);
    assert!(code == Some(1) && error.contains("do not belong together"), "{error}");
    let (code, error) = refused(&image[..0x2020]);
    assert!(code == Some(1) && error.contains("no VMCOREINFO found"), "{error}");
}

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn real_images_are_shown_whole() {
    let dir = std::env::var_os("ORTHROS_IMAGE_DIR").expect("ORTHROS_IMAGE_DIR names a folder of images");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).expect("image folder can be read") {
        let path: PathBuf = entry.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "mem") {
            continue;
        }
        seen += 1;
        let output = inspect().arg("--json").arg(&path).output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {error}", path.display());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["problems"], serde_json::json!([]), "{}", path.display());
        let tasks = report["tasks"].as_array().expect("tasks");
        assert_eq!(tasks[0]["tgid"], 1);
        assert!(tasks.iter().any(|task| task["tgid"] == 2 && task["comm"] == "kthreadd"));
        for process in report["memory"].as_array().expect("memory") {
            let mappings = process["mappings"].as_array().expect("mappings");
            assert!(!mappings.is_empty() || process["shared_with"].is_u64(), "{process}");
        }
        let saved = report["salvage"]["saved"]["processes"].as_u64().expect("a number");
        let files = report["files"].as_array().expect("files");
        assert_eq!(files.len() as u64, saved, "{}", path.display());
        // The guest's own test program: what it holds is known.
        if let Some(wl) = files.iter().find(|process| process["comm"] == "wl") {
            let kinds = |name: &str| {
                let descriptors = wl["descriptors"].as_array().expect("descriptors").iter();
                descriptors
                    .filter(|descriptor| descriptor["what"].get(name).is_some())
                    .collect::<Vec<_>>()
            };
            assert_eq!(kinds("EventFd")[0]["what"]["EventFd"]["count"], 7);
            assert!(kinds("Pipe").iter().any(|pipe| pipe["unread"] == 16));
            assert!(kinds("Regular")
                .iter()
                .any(|file| file["path"] == "/tmp/data" && file["position"] == 3));
            assert_eq!((kinds("Epoll").len(), kinds("TimerFd").len()), (1, 1));
        }
        let text = inspect().args(["--show", "log"]).arg(&path).output().expect("it runs");
        assert!(String::from_utf8_lossy(&text.stdout).contains("Kernel panic - not syncing"));
        // The console of the guest lists every thread as /proc showed it: "TASK <pid>/task/<tid> <comm> …".
        let console = path.with_file_name(format!(
            "con.{}.log",
            path.file_stem().expect("a name").to_string_lossy()
        ));
        let Ok(console) = std::fs::read(console) else { continue };
        let mut compared = 0;
        for line in String::from_utf8_lossy(&console)
            .lines()
            .filter(|line| line.starts_with("TASK "))
        {
            let ids: Vec<u64> = line[5..]
                .split(['/', ' '])
                .filter_map(|word| word.parse().ok())
                .collect();
            let [pid, tid] = ids[..2] else {
                panic!("two ids in {line}")
            };
            let task = tasks.iter().find(|task| task["tgid"] == pid);
            // Commands that have ended since are gone; what ran through is there with each thread.
            let Some(task) = task else { continue };
            let threads = task["threads"].as_array().expect("threads");
            let thread = threads
                .iter()
                .find(|thread| thread["pid"] == tid)
                .expect("the thread is there");
            let comm = thread["comm"].as_str().expect("a name");
            assert!(line.contains(comm), "{line}: {comm}");
            compared += 1;
        }
        assert!(compared >= 40, "{compared} threads compared with the console");
    }
    assert!(seen > 0, "the image folder holds no *.mem file");
}
