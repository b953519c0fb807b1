//! Says what is wrong with an initramfs, before a kernel is left alone with it.

use crate::build::check_module;
use crate::cpio::{self, Entry};
use crate::modules::{self, Modules};
use crate::unpack::{is_packed, unpacked};
use crate::{InitramfsError, INIT, LIST, ORTHROS};
use std::collections::HashSet;

/// What a kernel needs of its initramfs.
#[derive(Clone, Debug)]
pub struct Needs<'a> {
    /// The kernel's release.
    pub release: &'a str,
    /// Drivers without which its root file system cannot be reached, by module name.
    pub drivers: &'a [String],
    /// The kernel's modules, if they are installed here; without them every driver has to be in the initramfs.
    pub modules: Option<&'a Modules>,
}

/// Checks an initramfs: archives one after the other, each of them perhaps compressed, as Linux takes them.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(bytes: &[u8], needs: &Needs<'_>) -> Result<(), InitramfsError> {
    let bytes = whole(bytes)?;
    let entries = cpio::entries(&bytes)?;
    let find = |path: &str| entries.iter().rfind(|entry| entry.path == path);
    let init = find(INIT).ok_or_else(|| lacks(INIT, "the first program"))?;
    if !is_orthros_init(init) {
        return Err(InitramfsError::Lacks(format!("orthros-init as /{INIT}")));
    }
    let module = find(ORTHROS).ok_or_else(|| lacks(ORTHROS, "Orthros's module"))?;
    check_module(module.content, &format!("/{ORTHROS}"), needs.release)?;

    let list = find(LIST).map_or("", |entry| std::str::from_utf8(entry.content).unwrap_or(""));
    let mut loaded = HashSet::new();
    for path in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let file = find(path.trim_start_matches('/'))
            .ok_or_else(|| InitramfsError::Lacks(format!("{path}, which /{LIST} names")))?;
        check_module(file.content, path, needs.release)?;
        loaded.insert(modules::name(path));
    }
    let missing = needs.drivers.iter().find(|driver| {
        let built_in = needs.modules.is_some_and(|modules| modules.is_built_in(driver));
        !built_in && !loaded.contains(*driver)
    });
    match missing {
        Some(driver) => Err(InitramfsError::Lacks(format!(
            "driver `{driver}`, which the root file system needs and kernel {} has not built in",
            needs.release
        ))),
        None => Ok(()),
    }
}

fn lacks(path: &str, what: &str) -> InitramfsError {
    InitramfsError::Lacks(format!("/{path}, {what}"))
}

/// By the message that the program has for whoever starts it by hand.
fn is_orthros_init(entry: &Entry<'_>) -> bool {
    const MARK: &[u8] = b"orthros-init: ";
    entry.content.windows(MARK.len()).any(|bytes| bytes == MARK)
}

/// All archives, unpacked. Only the last one may be compressed: where a compressed one ends is not known from outside.
fn whole(bytes: &[u8]) -> Result<Vec<u8>, InitramfsError> {
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        let padding = rest.iter().take_while(|&&byte| byte == 0).count();
        rest = rest.get(padding..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(out);
        }
        if is_packed(rest) {
            let last = unpacked(rest).map_err(|error| InitramfsError::Short(error.to_string()))?;
            out.extend_from_slice(&last);
            return Ok(out);
        }
        let length = cpio::length(rest)?;
        let (one, after) = rest.split_at(length);
        out.extend_from_slice(one);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::Archive;

    const RELEASE: &str = "6.1.0-56-cloud-amd64";

    fn module(release: &str) -> Vec<u8> {
        format!("\x7FELF..vermagic={release} SMP\0").into_bytes()
    }

    fn archive(leave_out: &str, release: &str) -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("lib");
        archive.directory("lib/orthros");
        archive.directory("lib/modules");
        for (path, content) in [
            (INIT, b"..orthros-init: is started by the kernel..".to_vec()),
            (ORTHROS, module(release)),
            (LIST, b"/lib/modules/virtio_blk.ko\n".to_vec()),
            ("lib/modules/virtio_blk.ko", module(RELEASE)),
        ] {
            if path != leave_out {
                archive.file(path, 0o644, &content);
            }
        }
        archive.finish()
    }

    fn judge(bytes: &[u8], drivers: &[&str]) -> Result<(), String> {
        let drivers: Vec<String> = drivers.iter().map(|&driver| driver.to_owned()).collect();
        let needs = Needs {
            release: RELEASE,
            drivers: &drivers,
            modules: None,
        };
        check(bytes, &needs).map_err(|error| error.to_string())
    }

    #[test]
    fn a_sound_one_passes() {
        assert_eq!(judge(&archive("", RELEASE), &["virtio_blk"]), Ok(()));
    }

    #[test]
    fn early_archives_may_stand_before_a_compressed_one() {
        let mut early = Archive::default();
        early.file("kernel", 0o644, b"microcode");
        let mut bytes = early.finish();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let path = std::env::temp_dir().join(format!("orthros-inspect-{}", std::process::id()));
        std::fs::write(&path, archive("", RELEASE)).unwrap();
        let packed = std::process::Command::new("gzip")
            .arg("-c")
            .arg(&path)
            .output()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        bytes.extend_from_slice(&packed.stdout);
        assert_eq!(judge(&bytes, &["virtio_blk"]), Ok(()));
        let short = judge(&bytes[..bytes.len() - 8], &[]).unwrap_err();
        assert!(short.starts_with("it is cut short: gzip: "), "{short}");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (leave_out, message) in [
            (INIT, "it has no /init, the first program"),
            (ORTHROS, "it has no /lib/orthros/orthros.ko, Orthros's module"),
            (
                "lib/modules/virtio_blk.ko",
                "it has no /lib/modules/virtio_blk.ko, which /lib/orthros/modules names",
            ),
            (
                LIST,
                "it has no driver `virtio_blk`, which the root file system needs and kernel 6.1.0-56-cloud-amd64 has not built in",
            ),
        ] {
            assert_eq!(judge(&archive(leave_out, RELEASE), &["virtio_blk"]), Err(message.into()));
        }
        assert_eq!(
            judge(&archive("", "6.12.1-amd64"), &[]),
            Err("/lib/orthros/orthros.ko is built for kernel 6.12.1-amd64, not for 6.1.0-56-cloud-amd64".into())
        );
    }

    #[test]
    fn one_that_is_cut_short_anywhere_is_refused() {
        let bytes = archive("", RELEASE);
        for length in (1..bytes.len() - 4).step_by(7) {
            assert!(judge(&bytes[..length], &[]).is_err(), "{length} of {}", bytes.len());
        }
        assert!(judge(b"<!DOCTYPE html>", &[])
            .unwrap_err()
            .starts_with("it is no initramfs"));
        assert!(judge(b"", &[]).is_err());
    }
}
