//! `orthros-ctl config`: after how long a hang is one.

use crate::exit::Exit;
use crate::snapshot::{open_region, Snapshot};
use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use shared_region::control::{ControlWords, HangLimit};
use shared_region::device::Configure;
use std::mem::offset_of;

/// A deadline as it is in force, in milliseconds; `None` if it is off.
pub fn deadline(snapshot: &Snapshot, limit: HangLimit) -> Option<u64> {
    limit.milliseconds(word(snapshot, limit))
}

fn word(snapshot: &Snapshot, limit: HangLimit) -> u64 {
    snapshot.word(offset_of!(ControlWords, hang_limits) + 8 * limit as usize)
}

/// A deadline in words.
pub fn text(ms: Option<u64>) -> String {
    match ms {
        None => "off".into(),
        Some(ms) if ms % 1000 == 0 => format!("{} s", ms / 1000),
        Some(ms) => format!("{ms} ms"),
    }
}

fn named(name: &str) -> Result<(HangLimit, &'static str)> {
    let all = HangLimit::ALL.iter();
    let found = all.clone().find(|&&(_, known, _)| known == name);
    let &(limit, name, _) = found.with_context(|| {
        let names: Vec<_> = all.map(|&(_, name, _)| name).collect();
        format!("there is no setting `{name}`; there are {}", names.join(", "))
    })?;
    Ok((limit, name))
}

fn show(snapshot: &Snapshot, chosen: &[(HangLimit, &'static str)], json: bool) {
    if json {
        let settings: serde_json::Map<String, Value> = chosen
            .iter()
            .map(|&(limit, name)| (format!("{name}_ms"), deadline(snapshot, limit).into()))
            .collect();
        println!("{:#}", json!({"version": 1, "settings": settings}));
        return;
    }
    for &(limit, name) in chosen {
        let default = if word(snapshot, limit) == 0 { " (default)" } else { "" };
        println!("{name:<14} {}{default}", text(deadline(snapshot, limit)));
    }
}

/// Shows all settings or one, or sets one.
pub fn run(name: Option<&str>, value: Option<&str>, json: bool) -> Result<Exit> {
    let chosen = match name {
        Some(name) => vec![named(name)?],
        None => HangLimit::ALL.iter().map(|&(limit, name, _)| (limit, name)).collect(),
    };
    let wanted = value
        .map(|value| {
            HangLimit::word(value).with_context(|| {
                format!(
                    "`{value}` is no deadline: give `off`, `default`, or {} to {} seconds",
                    HangLimit::LEAST_MS / 1000,
                    HangLimit::MOST_MS / 1000
                )
            })
        })
        .transpose()?;
    let (device, region) = open_region()?;
    if let (Some(value), &[(limit, name)]) = (wanted, chosen.as_slice()) {
        let limit = limit as u64;
        device.configure(Configure { limit, value }).context(name)?;
        return Ok(Exit::Fine);
    }
    ensure!(wanted.is_none(), "which setting?");
    show(&Snapshot::take(&region), &chosen, json);
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;

    #[test]
    fn deadlines_have_defaults_and_can_be_off() {
        let mut fake = Fake::armed();
        assert_eq!(deadline(&Snapshot::take(&fake), HangLimit::Cpu), Some(10_000));
        fake.set_control(offset_of!(ControlWords, hang_limits), 4_000);
        fake.set_control(offset_of!(ControlWords, hang_limits) + 8, HangLimit::OFF);
        let snapshot = Snapshot::take(&fake);
        assert_eq!(text(deadline(&snapshot, HangLimit::Cpu)), "4 s");
        assert_eq!(text(deadline(&snapshot, HangLimit::Thread)), "off");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let error = run(Some("hang-gpu"), None, false).expect_err("refused").to_string();
        assert!(error.contains("hang-livelock"), "{error}");
        let error = run(Some("hang-cpu"), Some("soon"), false)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("1 to 3600 seconds"), "{error}");
    }
}
