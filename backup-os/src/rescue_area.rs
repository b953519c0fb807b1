//! The last thing that can be done for files: when no kernel can be booted any more, what their disks do not have is written
//! to the partition or file that the administrator has named for that ([`shared_region::rescue_area`]).
//!
//! What we know on entry: every CPU is parked, devices are silent, and the machine is about to be reset. What we are
//! responsible for: nothing is written outside that, nor to a disk that is not the one it was, nor over what an
//! earlier failure has left there; and the reset comes, whatever the disk does.

use crate::rescue::{self, Failure};
use crate::virtio::disk::{Disk, DiskError};
use crate::virtio::Registers;
use crate::watch::{Armed, Backup};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::sync::atomic::{AtomicU64, Ordering};
use failover::attempts::furthest;
use machine::pci::Function;
use machine::virtio;
use salvage::addr::PhysAddr;
use salvage::memory::PhysMem;
use shared_region::control::CommitPoint;
use shared_region::layout;
use shared_region::record::{Stream, Writer};
use shared_region::rescue_area::{
    self, kind, only_files, state, AreaError, Contents, Extents, Head, Outside, Wanted, What, BLOCK, CONTENTS_AT,
    SECTOR,
};
use shared_region::PAGE_SIZE;
use zerocopy::IntoBytes;

/// The area, on its disk. What is cached of a file is not its content any more: nobody will write it, because no kernel runs,
/// and the reset comes next.
struct Area {
    disk: Disk,
    extents: Extents,
}

impl Area {
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        let pieces = self.extents.pieces(at, bytes.len());
        for (sector, range) in pieces.map_err(|Outside| DiskError::Outside)? {
            self.disk.read(sector, &mut bytes[range])?;
        }
        Ok(())
    }
}

impl rescue_area::Disk for Area {
    type Error = DiskError;

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let pieces = self.extents.pieces(at, bytes.len());
        if at < CONTENTS_AT {
            return Err(DiskError::Outside);
        }
        for (sector, range) in pieces.map_err(|Outside| DiskError::Outside)? {
            self.disk.write(sector, &bytes[range])?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.disk.flush()
    }
}

impl Backup {
    /// Gives the machine up because no kernel takes over, and says what became of the files.
    pub fn lose_all(&mut self, armed: &Armed, failure: &Failure<'_>) -> ! {
        let why = format!("no successor took over: {}", self.attempts_text());
        if self.region.rescue_words().state.load(Ordering::Acquire) == kind::NONE {
            self.lose(format_args!("{why}"))
        }
        self.leave_network();
        let said = match self.write_rescue_area(armed, failure, &why) {
            Ok(said) => said,
            Err(why) => {
                log::error!("rescue area: {why}");
                format!("the rescue area was not written: {why}")
            }
        };
        self.lose_saying(format_args!("{why}"), &said)
    }

    fn write_rescue_area(&mut self, armed: &Armed, failure: &Failure<'_>, why: &str) -> Result<String, String> {
        let (mut area, head) = self.rescue_area()?;
        // SAFETY: every CPU is parked and devices are quiet. Frames that a successor was given are not among those that the
        // records name.
        let frozen = unsafe { rescue::frozen(self.region, &armed.ram) };
        let word = self.region.control().commit_point.load(Ordering::Acquire);
        if furthest(self.levels().chain([word])) == CommitPoint::Open {
            let prepared = match &armed.prepared {
                Some(prepared) => Ok(prepared.clone()),
                None => rescue::prepare(&armed.live, &armed.facts).map(alloc::rc::Rc::new),
            };
            let prepared = prepared.map_err(|error| format!("{error}"))?;
            // SAFETY: 1. as above. 2. No successor runs that could pass the gate.
            let saved = unsafe {
                rescue::salvage(
                    self.region,
                    &self.clock,
                    &frozen,
                    &prepared,
                    failure,
                    rescue::Aim::Files,
                )
            };
            saved.map_err(|error| format!("{error}"))?;
        }
        let context = self.region.address(layout::CONTEXT);
        // SAFETY: nobody writes there any more.
        let context = unsafe { self.region.bytes(context, layout::CONTEXT.size) };
        let stream = Stream::open(context.unwrap_or_default()).map_err(|error| format!("{error}"))?;
        // SAFETY: no standby will be woken any more, and its images are nobody else's.
        let room = unsafe { self.region.part_mut(layout::STANDBY) };
        let mut writer = Writer::new(room, stream.header.failover).map_err(|error| format!("{error}"))?;
        only_files(&stream, &mut writer, Wanted::All).map_err(|error| format!("{error}"))?;
        let used = writer.finish();
        let what = What {
            failover: failure.failover,
            epitaph: why.as_bytes(),
            records: room.get(..used).unwrap_or_default(),
        };
        let frame = |number: u64, page: &mut [u8]| {
            let at = number.checked_mul(PAGE_SIZE);
            let bytes = at.and_then(|at| frozen.slice(PhysAddr(at), page.len()));
            bytes.inspect(|bytes| page.copy_from_slice(bytes)).is_some()
        };
        let saved = rescue_area::save(&mut area, &head, &what, &frame).map_err(|error| format!("the disk {error}"))?;
        let text = format!(
            "{} pages of {} files are in the rescue area{}",
            saved.frames,
            saved.files,
            if saved.left_out {
                ", which has no room for more"
            } else {
                ""
            }
        );
        log::info!("rescue area: {text}");
        Ok(text)
    }

    /// The area, if it is still the one that was named, and has room.
    fn rescue_area(&self) -> Result<(Area, Head), String> {
        let words = self.region.rescue_words();
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let address = word(&words.function);
        let function = Function {
            bus: (address >> 8) as u8,
            device: (address >> 3) as u8 & 31,
            function: address as u8 & 7,
        };
        let place = virtio::disk(self.ring0, function).map_err(|why| format!("the disk at {function} {why}"))?;
        // SAFETY: it was found there just now, and no kernel runs.
        let registers = unsafe { Registers::new(self.ring0, place) };
        function.enable_memory(self.ring0);
        // What it did for the dead kernel must be over before it may master the bus.
        let taken = registers.reset(&self.clock).map_err(|_| DiskError::Timeout);
        let taken = taken.and_then(|()| {
            function.enable_bus_master(self.ring0);
            Disk::take(registers, &self.clock)
        });
        let of_disk = |error: DiskError| format!("the disk at {function} {error}");
        let mut disk = taken.map_err(of_disk)?;
        let serial = disk.serial().map_err(of_disk)?;
        let expected: [u64; 3] = core::array::from_fn(|index| word(&words.serial[index]));
        let same = expected.as_bytes().get(..serial.len()) == Some(&serial[..]);
        if disk.sectors != word(&words.disk_sectors) || !same {
            return Err(format!("the disk at {function} is another one than it was"));
        }
        let (start, sectors) = (word(&words.start), word(&words.sectors));
        let within = word(&words.within[0])..word(&words.within[0]).saturating_add(word(&words.within[1]));
        let first = start..start.saturating_add(BLOCK / SECTOR);
        if within.end > disk.sectors || first.start < within.start || first.end > within.end {
            return Err(of_disk(DiskError::Outside));
        }
        let mut block = vec![0; BLOCK as usize];
        disk.read(start, &mut block).map_err(of_disk)?;
        let head = Head::parse(&block, sectors.saturating_mul(SECTOR)).map_err(|error| format!("{error}"))?;
        if head.id != [word(&words.id[0]), word(&words.id[1])] {
            return Err(String::from("another rescue area is there"));
        }
        let extents = match words.state.load(Ordering::Relaxed) {
            kind::FILE => Extents::parse(&block, &head, start, &within),
            _ => Extents::of_partition(start, head.bytes / SECTOR, &within),
        };
        let extents = extents.map_err(|error| format!("{error}"))?;
        let mut area = Area { disk, extents };
        area.read(CONTENTS_AT, &mut block).map_err(of_disk)?;
        match Contents::parse(&block, &head) {
            Ok(contents) if contents.state != state::USED => {
                return Err(String::from(
                    "it holds what an earlier failure has left, which nobody has put back",
                ))
            }
            Ok(_) | Err(AreaError::Empty | AreaError::Damaged(_)) => {}
            Err(error) => return Err(format!("{error}")),
        }
        Ok((area, head))
    }
}
