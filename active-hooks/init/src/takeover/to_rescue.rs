//! What this kernel could not put back goes to the rescue area: all of file systems that it could not mount, and files that
//! mounted ones have not taken.
//!
//! What we know on entry: processes run, and no frame has been given back yet. What we are responsible for: nothing is written but
//! to the area that was named, as the backup OS would; nobody waits for it for ever; and whatever becomes of it stands in the
//! report. Frames that became pages of a file's cache may have been changed through the file since: then its status-change time
//! is not the recorded one any more, and the file is left alone when the area is read.

use super::{unmounted::Unmounted, untaken::Untaken};
use crate::{
    boot::log,
    rescue::place,
    sys::{self, Tid},
};
use orthros_device::Device;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use shared_region::{
    context::SavedBy,
    device::RescueArea,
    layout::RESCUE_WORDS,
    record::{Kind, Stream, Writer},
    rescue_area::{kind, only_files, save, Disk, Left, Wanted, What},
};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::FileExt},
    time::{Duration, Instant},
};
use zerocopy::{FromBytes, FromZeros};

/// How long the area may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two signs of life.
const STEP: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Room for what the records of an area have beside those they are copied from: at all, and for each file.
const MORE: usize = 4096;
const MORE_OF_FILE: usize = 64;

/// What could not be put back.
#[derive(Debug, Default)]
pub struct NotPutBack {
    /// File systems that are not mounted.
    pub unmounted: Unmounted,
    /// Files that mounted ones have not taken.
    pub untaken: Untaken,
}

/// What is to be written.
#[derive(Debug)]
pub struct ToSave {
    records: Vec<u8>,
    failover: u64,
    words: RescueArea,
    epitaph: String,
}

impl NotPutBack {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.unmounted.is_empty() && self.untaken.is_empty()
    }

    /// A line of the report for each file system.
    pub fn remarks(&self, what_becomes_of_it: &str) -> Vec<String> {
        let mut lines = self.unmounted.remarks(what_becomes_of_it);
        lines.extend(self.untaken.remarks(what_becomes_of_it));
        lines
    }

    /// Copies what is to be written out of the region, which whoever writes it does not have.
    ///
    /// # Errors
    /// Why nothing can be.
    pub fn to_save(&self, device: &Device) -> Result<ToSave, String> {
        let region = device.region().map_err(|error| error.to_string())?;
        let bytes = region.copy(RESCUE_WORDS, size_of::<RescueArea>());
        let words = RescueArea::read_from_prefix(&bytes).map_or_else(|_| RescueArea::new_zeroed(), |(words, _)| words);
        if words.state == kind::NONE {
            return Err("no rescue area is named (`orthros-ctl rescue-area --prepare DEVICE` makes one)".into());
        }
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let context = region.context().map_err(|error| text(&error))?;
        let stream = Stream::open(context).map_err(|error| text(&error))?;
        let room = (stream.header.length as usize).saturating_add(MORE);
        let mut records = vec![0; room.saturating_add(self.untaken.files().saturating_mul(MORE_OF_FILE))];
        let mut writer = Writer::new(&mut records, stream.header.failover).map_err(|error| text(&error))?;
        let boot_id = boot_id();
        let by = writer.push(Kind::SavedBy, 1, 0, 0, &SavedBy { boot_id });
        let left = Left {
            unmounted: &self.unmounted.devices(),
            mounted: &self.untaken.by_device(),
        };
        by.and_then(|()| only_files(&stream, &mut writer, Wanted::Left(left)))
            .map_err(|error| text(&error))?;
        let used = writer.finish();
        records.truncate(used);
        Ok(ToSave {
            records,
            failover: stream.header.failover,
            words,
            epitaph: self.epitaph(),
        })
    }

    fn epitaph(&self) -> String {
        let unmounted: Vec<&str> = self.unmounted.names().collect();
        let untaken: Vec<&str> = self.untaken.names().collect();
        let one = |names: Vec<&str>, what: &str| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
        let all = [
            one(unmounted, "could not mount"),
            one(untaken, "could not put everything back on"),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        format!("a kernel took over that {}", all.join(" and "))
    }
}

/// Number of this boot, by chance.
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

impl ToSave {
    /// Writes it, in a process of its own: a disk may keep whoever writes to it waiting for ever. Calls `alive` meanwhile. Returns
    /// what became of it.
    pub fn write(&self, device: &Device, alive: &dyn Fn()) -> String {
        let said = self.helped(device, alive).unwrap_or_else(|why| {
            log::error(format_args!("rescue area: {why}"));
            format!("lost, because the rescue area was not written: {why}")
        });
        log::info(format_args!("rescue area: {said}"));
        said
    }

    fn helped(&self, device: &Device, alive: &dyn Fn()) -> Result<String, String> {
        let (told, telling) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| error.to_string())?;
        let mut telling = Some(telling);
        let helper = sys::in_child(|| {
            let (sign, answer) = match self.write_now(device) {
                Ok(done) => ('+', done),
                Err(why) => ('-', why),
            };
            let telling = telling.take().map(File::from);
            // Nobody hears it if it cannot be given.
            let _ = telling.map(|mut telling| telling.write_all(format!("{sign}{answer}").as_bytes()));
        });
        let helper = helper.map_err(|error| error.to_string())?;
        drop(telling);
        let answer = answer(helper, told, alive)?;
        match answer.split_at_checked(1) {
            Some(("+", done)) => Ok(done.to_owned()),
            Some(("-", why)) => Err(why.to_owned()),
            _ => Err("its writer has failed inside".into()),
        }
    }

    fn write_now(&self, device: &Device) -> Result<String, String> {
        let (path, head) = place::to_write_to(&self.words)?;
        let name = |error: io::Error| format!("{}: {error}", path.display());
        let mut file = Area(place::Writing::open(&path, true).map_err(name)?);
        let what = What {
            failover: self.failover,
            epitaph: self.epitaph.as_bytes(),
            records: &self.records,
        };
        let frame = |number: u64, page: &mut [u8]| device.read_frames(number, page).is_ok();
        let saved = save(&mut file, &head, &what, &frame).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(format!(
            "{} pages are in the rescue area{}, `orthros-ctl rescue` puts them back when their disks take them",
            saved.frames,
            if saved.left_out {
                ", which has no room for more"
            } else {
                ""
            }
        ))
    }
}

/// What the writer says, in time.
fn answer(helper: Tid, told: OwnedFd, alive: &dyn Fn()) -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE;
    while poll(&mut [PollFd::new(&told, PollFlags::IN)], Some(&STEP)).map_err(|error| error.to_string())? == 0 {
        alive();
        if Instant::now() > deadline {
            // Without the frames, which are given back now, it cannot go on either.
            let _ = sys::kill(helper, libc::SIGKILL);
            return Err(format!("its disk has taken more than {PATIENCE:?}"));
        }
    }
    let mut text = String::new();
    File::from(told)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    Ok(text)
}

/// The area: a partition, or a file, which is written through its file system. Where that is not mounted it is left alone:
/// whatever has kept it from being mounted may be wrong with its blocks, too.
struct Area(place::Writing);

impl Disk for Area {
    type Error = io::Error;

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}
