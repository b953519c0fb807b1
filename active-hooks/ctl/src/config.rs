//! `orthros-ctl config`: after how long a hang is one, how much of the page cache is kept in a failover, and where a failover
//! can be watched from outside.

use crate::exit::Exit;
use crate::root::Root;
use crate::snapshot::{open_region, Snapshot};
use anyhow::{anyhow, bail, ensure, Context, Result};
use serde_json::{json, Value};
use shared_region::control::{warm_cache_mb, warm_cache_word, ControlWords, HangLimit, WARM_CACHE, WARM_CACHE_MOST_MB};
use shared_region::device::{self, Configure, WARM_CACHE_LIMIT};
use shared_region::status_page::{LogTarget, StatusAddress};
use std::mem::offset_of;
use std::net::Ipv4Addr;

/// Something that can be set.
#[derive(Clone, Copy, Debug)]
enum Setting {
    Deadline(HangLimit),
    WarmCache,
    StatusAddress,
    LogTarget,
}

impl Setting {
    fn all() -> impl Iterator<Item = (Self, &'static str)> {
        let deadlines = HangLimit::ALL
            .iter()
            .map(|&(limit, name, _)| (Self::Deadline(limit), name));
        deadlines.chain([
            (Self::WarmCache, WARM_CACHE),
            (Self::StatusAddress, StatusAddress::NAME),
            (Self::LogTarget, LogTarget::NAME),
        ])
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
            Self::StatusAddress => snapshot.word(offset_of!(ControlWords, status_address)),
            Self::LogTarget => snapshot.word(offset_of!(ControlWords, log_target)),
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
            Self::StatusAddress => StatusAddress::word(value).map_err(|wrong| anyhow!("`{value}` {wrong}")),
            Self::LogTarget => LogTarget::word(value).map_err(|wrong| anyhow!("`{value}` {wrong}")),
        }
    }

    /// As [`Configure::limit`] has it.
    const fn number(self) -> u64 {
        match self {
            Self::Deadline(limit) => limit as u64,
            Self::WarmCache => WARM_CACHE_LIMIT,
            Self::StatusAddress => device::STATUS_ADDRESS,
            Self::LogTarget => device::LOG_TARGET,
        }
    }

    fn text(self, snapshot: &Snapshot) -> String {
        match self {
            Self::Deadline(limit) => text(deadline(snapshot, limit)),
            Self::WarmCache => match warm_cache_mb(self.word(snapshot)) {
                0 => "off".into(),
                mb => format!("{mb} MB"),
            },
            Self::StatusAddress | Self::LogTarget => self.address(snapshot).unwrap_or_else(|| "off".into()),
        }
    }

    /// Name with its unit, and value.
    fn json(self, name: &str, snapshot: &Snapshot) -> (String, Value) {
        match self {
            Self::Deadline(limit) => (format!("{name}_ms"), deadline(snapshot, limit).into()),
            Self::WarmCache => (format!("{name}_mb"), warm_cache_mb(self.word(snapshot)).into()),
            Self::StatusAddress | Self::LogTarget => (name.into(), self.address(snapshot).into()),
        }
    }

    /// An address as it is written; `None` if it is off.
    fn address(self, snapshot: &Snapshot) -> Option<String> {
        let word = self.word(snapshot);
        match self {
            Self::Deadline(_) | Self::WarmCache => None,
            Self::StatusAddress => StatusAddress::from_word(word).map(|address| address.to_string()),
            Self::LogTarget => LogTarget::from_word(word).map(|target| target.to_string()),
        }
    }

    /// Whether a new word goes with the machine's own addresses and with the other settings.
    fn check(self, word: u64, snapshot: &Snapshot, root: &Root) -> Result<()> {
        let page = match self {
            Self::StatusAddress => StatusAddress::from_word(word),
            _ => StatusAddress::from_word(Self::StatusAddress.word(snapshot)),
        };
        let target = match self {
            Self::LogTarget => LogTarget::from_word(word),
            _ => LogTarget::from_word(Self::LogTarget.word(snapshot)),
        };
        let (address, what) = match (self, page, target) {
            (Self::StatusAddress, Some(page), target) => {
                if target.is_some_and(|target| target.address == page.address) {
                    bail!(
                        "`{page}` is where {} sends messages to: give another address",
                        LogTarget::NAME
                    );
                }
                (page.address, "the backup OS needs one that no machine has")
            }
            (Self::LogTarget, None, Some(target)) => bail!(
                "`{target}` cannot be sent to: there is no address to send from; set `orthros-ctl config {} \
                 ADDRESS/PREFIX` first",
                StatusAddress::NAME
            ),
            (Self::LogTarget, Some(page), Some(target)) => {
                if target.address == page.address {
                    bail!(
                        "`{target}` is the backup OS itself ({}): give another one",
                        StatusAddress::NAME
                    );
                }
                (
                    target.address,
                    "it cannot listen while its kernel is dead: give another machine",
                )
            }
            _ => return Ok(()),
        };
        if own_addresses(root).contains(&address) {
            bail!("`{address}` is an address of this machine: {what}");
        }
        Ok(())
    }
}

/// The machine's own addresses of IPv4: `/proc/net/fib_trie` has each above a line with what it is (fib_trie_seq_show,
/// net/ipv4/fib_trie.c). None are known where it cannot be read; a failover compares them once more.
fn own_addresses(root: &Root) -> Vec<Ipv4Addr> {
    let text = root.read("/proc/net/fib_trie").unwrap_or_default();
    let (mut last, mut own) = (None::<Ipv4Addr>, Vec::new());
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => last = address.parse().ok(),
            None if line == "/32 host LOCAL" => own.extend(last),
            None => {}
        }
    }
    own
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
        setting
            .check(value, &Snapshot::take(&region), &Root::system())
            .context(name)?;
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
        for (name, value, way_out) in [
            ("status-address", "10.0.2.16", "10.0.2.16` needs the length"),
            ("status-address", "224.0.0.1/24", "give another one"),
            ("log-target", "10.0.2.2:0", "1 to 65535"),
        ] {
            let error = run(Some(name), Some(value), false).expect_err("refused").to_string();
            assert!(error.contains(way_out), "{error}");
        }
    }

    /// Words for the two addresses.
    fn addresses(page: &str, target: &str) -> Fake {
        let mut fake = Fake::armed();
        let words = (StatusAddress::word(page), LogTarget::word(target));
        fake.set_control(offset_of!(ControlWords, status_address), words.0.expect("an address"));
        fake.set_control(offset_of!(ControlWords, log_target), words.1.expect("a target"));
        fake
    }

    #[test]
    fn addresses_are_off_unless_they_are_set() {
        let shown = |fake: &Fake| {
            let snapshot = Snapshot::take(fake);
            [Setting::StatusAddress, Setting::LogTarget]
                .map(|setting| (setting.text(&snapshot), setting.address(&snapshot)))
        };
        assert_eq!(shown(&Fake::armed()), [("off".into(), None), ("off".into(), None)]);
        let [page, target] = ["10.0.2.16/24", "10.0.2.2:514"].map(String::from);
        let both = [(page.clone(), Some(page)), (target.clone(), Some(target))];
        assert_eq!(shown(&addresses("10.0.2.16/24", "10.0.2.2")), both);
    }

    #[test]
    fn addresses_must_go_with_the_machine_and_with_each_other() {
        let root = Root::at(format!("{}/tests/trees/addresses", env!("CARGO_MANIFEST_DIR")));
        let own = [[10, 0, 2, 15], [127, 0, 0, 1], [192, 168, 7, 1]].map(Ipv4Addr::from);
        assert_eq!(own_addresses(&root), own);
        let check = |setting: Setting, value: &str, fake: &Fake| {
            let checked = setting.check(setting.parse(value).expect("a value"), &Snapshot::take(fake), &root);
            checked.map_err(|error| error.to_string())
        };
        let (none, both) = (addresses("off", "off"), addresses("10.0.2.16/24", "10.0.2.2"));
        for (setting, value, fake, error) in [
            (Setting::StatusAddress, "10.0.2.15/24", &none, "address of this machine"),
            (Setting::StatusAddress, "192.168.7.1/24", &both, "no machine has"),
            (Setting::StatusAddress, "10.0.2.2/24", &both, "log-target sends"),
            (
                Setting::LogTarget,
                "10.0.2.2",
                &none,
                "config status-address ADDRESS/PREFIX",
            ),
            (Setting::LogTarget, "10.0.2.16", &both, "the backup OS itself"),
            (Setting::LogTarget, "192.168.7.1", &both, "give another machine"),
        ] {
            let refused = check(setting, value, fake).expect_err("refused");
            assert!(
                refused.contains(error) && refused.contains(value.split('/').next().expect("it")),
                "{refused}"
            );
        }
        for (setting, value, fake) in [
            (Setting::StatusAddress, "10.0.2.16/24", &none),
            (Setting::StatusAddress, "10.0.2.17/24", &both),
            (Setting::StatusAddress, "off", &both),
            (Setting::LogTarget, "10.0.2.3:5514", &both),
            (Setting::LogTarget, "off", &none),
        ] {
            assert_eq!(check(setting, value, fake), Ok(()), "{value}");
        }
    }
}
