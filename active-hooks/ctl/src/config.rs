//! `orthros-ctl config`: after how long a hang is one, and how much of the page cache is kept in a failover.

use crate::exit::Exit;
use crate::snapshot::{open_region, Snapshot};
use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use shared_region::control::{warm_cache_mb, warm_cache_word, ControlWords, HangLimit, WARM_CACHE, WARM_CACHE_MOST_MB};
use shared_region::device::{Configure, WARM_CACHE_LIMIT};
use std::mem::offset_of;

/// Something that can be set.
#[derive(Clone, Copy, Debug)]
enum Setting {
    Deadline(HangLimit),
    WarmCache,
}

impl Setting {
    fn all() -> impl Iterator<Item = (Self, &'static str)> {
        let deadlines = HangLimit::ALL
            .iter()
            .map(|&(limit, name, _)| (Self::Deadline(limit), name));
        deadlines.chain([(Self::WarmCache, WARM_CACHE)])
    }

    fn named(name: &str) -> Result<(Self, &'static str)> {
        Self::all().find(|&(_, known)| known == name).with_context(|| {
            let names: Vec<_> = Self::all().map(|(_, name)| name).collect();
            format!("there is no setting `{name}`; there are {}", names.join(", "))
        })
    }

    /// As it is stored; 0 is the default.
    fn word(self, snapshot: &Snapshot) -> u64 {
        match self {
            Self::Deadline(limit) => deadline_word(snapshot, limit),
            Self::WarmCache => snapshot.word(offset_of!(ControlWords, warm_cache)),
        }
    }

    /// The word for a value as it is written.
    fn parse(self, value: &str) -> Result<u64> {
        match self {
            Self::Deadline(_) => HangLimit::word(value).with_context(|| {
                format!(
                    "`{value}` is no deadline: give `off`, `default`, or {} to {} seconds",
                    HangLimit::LEAST_MS / 1000,
                    HangLimit::MOST_MS / 1000
                )
            }),
            Self::WarmCache => warm_cache_word(value).with_context(|| {
                format!("`{value}` is no amount: give `off`, `default`, or 1 to {WARM_CACHE_MOST_MB} megabytes")
            }),
        }
    }

    /// As [`Configure::limit`] has it.
    const fn number(self) -> u64 {
        match self {
            Self::Deadline(limit) => limit as u64,
            Self::WarmCache => WARM_CACHE_LIMIT,
        }
    }

    fn text(self, snapshot: &Snapshot) -> String {
        match self {
            Self::Deadline(limit) => text(deadline(snapshot, limit)),
            Self::WarmCache => match warm_cache_mb(self.word(snapshot)) {
                0 => "off".into(),
                mb => format!("{mb} MB"),
            },
        }
    }

    /// Name with its unit, and value.
    fn json(self, name: &str, snapshot: &Snapshot) -> (String, Value) {
        match self {
            Self::Deadline(limit) => (format!("{name}_ms"), deadline(snapshot, limit).into()),
            Self::WarmCache => (format!("{name}_mb"), warm_cache_mb(self.word(snapshot)).into()),
        }
    }
}

/// A deadline as it is in force, in milliseconds; `None` if it is off.
pub fn deadline(snapshot: &Snapshot, limit: HangLimit) -> Option<u64> {
    limit.milliseconds(deadline_word(snapshot, limit))
}

fn deadline_word(snapshot: &Snapshot, limit: HangLimit) -> u64 {
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

fn show(snapshot: &Snapshot, chosen: &[(Setting, &'static str)], json: bool) {
    if json {
        let settings = chosen.iter().map(|(setting, name)| setting.json(name, snapshot));
        let settings: serde_json::Map<String, Value> = settings.collect();
        println!("{:#}", json!({"version": 1, "settings": settings}));
        return;
    }
    for (setting, name) in chosen {
        let default = if setting.word(snapshot) == 0 { " (default)" } else { "" };
        println!("{name:<14} {}{default}", setting.text(snapshot));
    }
}

/// Shows all settings or one, or sets one.
pub fn run(name: Option<&str>, value: Option<&str>, json: bool) -> Result<Exit> {
    let chosen = match name {
        Some(name) => vec![Setting::named(name)?],
        None => Setting::all().collect(),
    };
    let wanted = match (value, chosen.as_slice()) {
        (Some(value), &[(setting, name)]) => Some((setting, name, setting.parse(value)?)),
        _ => None,
    };
    ensure!(wanted.is_some() || value.is_none(), "which setting?");
    let (device, region) = open_region()?;
    if let Some((setting, name, value)) = wanted {
        let limit = setting.number();
        device.configure(Configure { limit, value }).context(name)?;
        return Ok(Exit::Fine);
    }
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
    fn the_warm_cache_has_a_default_and_can_be_off() {
        let mut fake = Fake::armed();
        let shown = |fake: &Fake| Setting::WarmCache.text(&Snapshot::take(fake));
        assert_eq!(shown(&fake), "256 MB");
        fake.set_control(offset_of!(ControlWords, warm_cache), 64);
        assert_eq!(shown(&fake), "64 MB");
        fake.set_control(offset_of!(ControlWords, warm_cache), u64::MAX);
        assert_eq!(shown(&fake), "off");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let error = run(Some("hang-gpu"), None, false).expect_err("refused").to_string();
        assert!(error.contains("hang-livelock"), "{error}");
        let error = run(Some("hang-cpu"), Some("soon"), false)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("1 to 3600 seconds"), "{error}");
        let error = run(Some("warm-cache"), Some("much"), false)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("megabytes"), "{error}");
    }
}
