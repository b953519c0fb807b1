//! Unpacking what others have compressed, by their own tools: what is unpacked has been packed on the same system.

use crate::InitramfsError;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

/// First bytes of a compressed file, and what unpacks it.
const KINDS: [(&[u8], &str, &[&str]); 6] = [
    (b"\x1F\x8B", "gzip", &["-dc"]),
    (b"\x28\xB5\x2F\xFD", "zstd", &["-dcq"]),
    (b"\xFD7zXZ\0", "xz", &["-dc"]),
    (b"\x02\x21\x4C\x18", "lz4", &["-dc"]),
    (b"BZh", "bzip2", &["-dc"]),
    (b"\x5D\0\0", "xz", &["-dc", "--format=lzma"]),
];

/// Whether these bytes begin something that [`unpacked`] unpacks.
pub fn is_packed(bytes: &[u8]) -> bool {
    KINDS.iter().any(|(magic, ..)| bytes.starts_with(magic))
}

/// The bytes themselves, or what they unpack to.
///
/// # Errors
/// The tool is not there, or finds the bytes damaged or cut short.
pub fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, InitramfsError> {
    let Some(&(_, tool, arguments)) = KINDS.iter().find(|(magic, ..)| bytes.starts_with(magic)) else {
        return Ok(bytes.to_vec());
    };
    let failed = |why: String| InitramfsError::Tool { tool, why };
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            failed(format!(
                "cannot be started, which is needed to unpack this file: {error}"
            ))
        })?;
    let (mut input, mut output) = (child.stdin.take(), child.stdout.take());
    let mut out = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A tool that has had enough closes its end; its status says what it thinks.
            let _ = input.take().map(|mut pipe| pipe.write_all(bytes));
        });
        output.as_mut().map(|pipe| pipe.read_to_end(&mut out))
    });
    let end = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !end.status.success() {
        return Err(failed(String::from_utf8_lossy(&end.stderr).trim().to_owned()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(tool: &str) -> Vec<u8> {
        let mut child = Command::new(tool)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&[7; 300_000]).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn plain_bytes_stay_and_packed_ones_are_unpacked() {
        assert_eq!(unpacked(b"070701").unwrap(), b"070701");
        for tool in ["gzip", "xz", "zstd"] {
            let bytes = packed(tool);
            assert!(is_packed(&bytes));
            assert_eq!(unpacked(&bytes).unwrap(), vec![7; 300_000], "{tool}");
        }
    }

    #[test]
    fn what_is_cut_short_is_an_error_that_names_the_tool() {
        let bytes = packed("gzip");
        let error = unpacked(&bytes[..bytes.len() - 20]).unwrap_err().to_string();
        assert!(error.starts_with("gzip: "), "{error}");
    }
}
