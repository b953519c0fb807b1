//! Numbers for people.

/// Nanoseconds in a unit that leaves up to three digits before the point.
pub fn duration(nanoseconds: u64) -> String {
    let n = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", n / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", n / 1e6),
        _ => format!("{:.3} s", n / 1e9),
    }
}

/// Bytes in MB or GB.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MB", bytes >> 20),
        _ => format!("{:.1} GB", bytes as f64 / (1u64 << 30) as f64),
    }
}

/// `1 process`, `2 processes`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_fitting_units() {
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(1_500), "1.5 µs");
        assert_eq!(duration(12_345_678), "12.3 ms");
        assert_eq!(duration(2_000_000_000), "2.000 s");
    }

    #[test]
    fn sizes_have_fitting_units() {
        assert_eq!(bytes(4096), "4 KB");
        assert_eq!(bytes(512 << 20), "512 MB");
        assert_eq!(bytes(16 << 30), "16.0 GB");
    }
}
