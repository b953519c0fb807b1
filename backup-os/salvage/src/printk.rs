//! The kernel's log: the lockless ring buffer of printk (`kernel/printk/printk_ringbuffer.c`).
//!
//! A ring of descriptors, an array of facts about each record beside it, and a ring of text. A record is readable when
//! its descriptor says that it was committed and still carries the number it was asked for by.

use crate::addr::Kva;
use crate::error::{About, Reason, WalkError};
use crate::kernel::Kernel;
use crate::kernel_memory::KernelMemory;
use crate::memory::PhysMem;
use crate::mirror::Field;
use alloc::vec::Vec;

/// Most descriptors that are taken for real (log2); `CONFIG_LOG_BUF_SHIFT` is at most 25 and a record has 32 bytes.
const MAX_COUNT_BITS: u64 = 24;
/// Most bytes of text that are taken for real (log2); `log_buf_len=` is limited to 2 GB.
const MAX_SIZE_BITS: u64 = 31;
/// Bits of a descriptor's word that are its number; the two above are its state (`DESC_FLAGS_SHIFT`).
const ID_MASK: u64 = u64::MAX >> 2;
/// Records that make no sense before the rest of the ring is given up.
const MAX_BAD: u32 = 256;
/// Bytes of the number in front of a block of text.
const BLOCK_HEAD: u64 = 8;

crate::mirrors! {
    /// The buffer.
    pub struct PrintkRingbuffer = "printk_ringbuffer" {
        /// Descriptors.
        desc_ring: Field,
        /// Text.
        text_data_ring: Field,
    }

    /// The ring of descriptors.
    pub struct PrbDescRing = "prb_desc_ring" {
        /// log2 of the number of descriptors.
        count_bits: Field,
        /// The descriptors.
        descs: Field,
        /// What is known about the record of each.
        infos: Field,
        /// Number of the newest.
        head_id: Field = "head_id.counter",
        /// Number of the oldest.
        tail_id: Field = "tail_id.counter",
    }

    /// A descriptor.
    pub struct PrbDesc = "prb_desc" {
        /// State and number.
        state_var: Field = "state_var.counter",
        /// Where the text begins, counted from the first byte ever written.
        begin: Field = "text_blk_lpos.begin",
        /// Where the next text begins.
        next: Field = "text_blk_lpos.next",
    }

    /// The ring of text.
    pub struct PrbDataRing = "prb_data_ring" {
        /// log2 of its bytes.
        size_bits: Field,
        /// The bytes.
        data: Field,
    }

    /// What is known about a record.
    pub struct PrintkInfo = "printk_info" {
        /// Number of the record.
        seq: Field,
        /// When, in nanoseconds since boot.
        ts_nsec: Field,
        /// Bytes of text.
        text_len: Field,
        /// How urgent, 0 (emergency) to 7 (debug).
        level: Field,
        /// The thread, or with bit 31 the CPU, that wrote it.
        caller_id: Field,
    }
}

crate::constants! {
    /// States of a descriptor (`enum desc_state`).
    pub struct DescStates {
        /// Written; its writer may still add to it.
        committed: u32 = "desc_committed",
        /// Written.
        finalized: u32 = "desc_finalized",
    }
}

crate::mirror_set! {
    /// The mirrors of the log.
    pub struct PrintkTypes {
        /// `struct printk_ringbuffer`.
        ringbuffer: PrintkRingbuffer,
        /// `struct prb_desc_ring`.
        desc_ring: PrbDescRing,
        /// `struct prb_desc`.
        desc: PrbDesc,
        /// `struct prb_data_ring`.
        data_ring: PrbDataRing,
        /// `struct printk_info`.
        info: PrintkInfo,
        /// `enum desc_state`.
        states: DescStates,
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number since boot.
    pub seq: u64,
    /// When, in nanoseconds since boot.
    pub ts_nsec: u64,
    /// How urgent, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// The thread, or with bit 31 the CPU, that wrote it.
    pub caller_id: u32,
    /// The text, without a newline at its end; it may have some inside.
    pub text: Vec<u8>,
}

/// The records of the log, oldest first. Those without text, not committed or overwritten are left out.
#[derive(Debug)]
pub struct Log<'k, 'm, M: PhysMem + ?Sized> {
    memory: &'k KernelMemory<'m, M>,
    types: &'k PrintkTypes,
    descs: Kva,
    infos: Kva,
    count_mask: u64,
    data: Kva,
    size_bits: u32,
    /// Number of the next descriptor.
    id: u64,
    /// Descriptors left, at most as many as there are.
    left: u64,
    /// Records that may still make no sense.
    patience: u32,
}

/// The log of a kernel.
///
/// # Errors
/// The buffer cannot be read, or its sizes cannot be.
pub fn log<'k, 'm, M: PhysMem + ?Sized>(kernel: &'k Kernel<'m, M>) -> Result<Log<'k, 'm, M>, WalkError> {
    let object = "printk_ringbuffer";
    let (memory, types) = (&kernel.mem, &kernel.types.printk);
    let buffer = memory.pointer(kernel.symbols.prb).about(object)?;
    let ring = buffer.offset(u64::from(types.ringbuffer.desc_ring.offset));
    let text = buffer.offset(u64::from(types.ringbuffer.text_data_ring.offset));
    let bad = |what, value| WalkError::new(object, buffer, Reason::BadValue(what, value));

    let count_bits = memory.uint(ring, types.desc_ring.count_bits).about(object)?;
    if count_bits > MAX_COUNT_BITS {
        return Err(bad("count_bits", count_bits));
    }
    let size_bits = memory.uint(text, types.data_ring.size_bits).about(object)?;
    if size_bits > MAX_SIZE_BITS {
        return Err(bad("size_bits", size_bits));
    }
    let count = 1u64.wrapping_shl(count_bits as u32);
    let head = memory.uint(ring, types.desc_ring.head_id).about(object)?;
    let tail = memory.uint(ring, types.desc_ring.tail_id).about(object)?;
    Ok(Log {
        memory,
        types,
        descs: memory.ptr(ring, types.desc_ring.descs).about(object)?,
        infos: memory.ptr(ring, types.desc_ring.infos).about(object)?,
        count_mask: count.wrapping_sub(1),
        data: memory.ptr(text, types.data_ring.data).about(object)?,
        size_bits: size_bits as u32,
        id: tail & ID_MASK,
        left: (head.wrapping_sub(tail) & ID_MASK).saturating_add(1).min(count),
        patience: MAX_BAD,
    })
}

impl<M: PhysMem + ?Sized> Log<'_, '_, M> {
    /// The record of a descriptor number; `None` if there is none to be read.
    fn record(&self, id: u64) -> Result<Option<Record>, WalkError> {
        let object = "prb_desc";
        let place = id & self.count_mask;
        let desc = self
            .descs
            .offset(place.wrapping_mul(u64::from(self.types.desc.struct_size)));
        let state = self.memory.uint(desc, self.types.desc.state_var).about(object)?;
        let (number, state) = (state & ID_MASK, (state >> 62) as u32);
        let states = &self.types.states;
        if number != id || (state != states.committed && state != states.finalized) {
            return Ok(None);
        }
        let info = self
            .infos
            .offset(place.wrapping_mul(u64::from(self.types.info.struct_size)));
        let about = |field| self.memory.uint(info, field).about("printk_info");
        let begin = self.memory.uint(desc, self.types.desc.begin).about(object)?;
        let next = self.memory.uint(desc, self.types.desc.next).about(object)?;
        let Some(text) = self.text(id, begin, next, about(self.types.info.text_len)?)? else {
            return Ok(None);
        };
        Ok(Some(Record {
            seq: about(self.types.info.seq)?,
            ts_nsec: about(self.types.info.ts_nsec)?,
            level: about(self.types.info.level)? as u8,
            caller_id: about(self.types.info.caller_id)? as u32,
            text,
        }))
    }

    /// The text between two positions, of at most `len` bytes. `None` if the record has none, or it was overwritten.
    fn text(&self, id: u64, begin: u64, next: u64, len: u64) -> Result<Option<Vec<u8>>, WalkError> {
        // Odd positions stand for "no text" (`LPOS_DATALESS`).
        if begin & next & 1 != 0 {
            return Ok(None);
        }
        let size = 1u64.wrapping_shl(self.size_bits);
        let (wrap, next_wrap) = (begin >> self.size_bits, next >> self.size_bits);
        let mask = size.wrapping_sub(1);
        let (start, room) = if wrap == next_wrap && begin < next {
            (begin & mask, next.wrapping_sub(begin))
        } else if wrap.wrapping_add(1) == next_wrap {
            // A block that would cross the end stands at the start instead.
            (0, next & mask)
        } else {
            let desc = WalkError::new("prb_desc", self.descs, Reason::BadValue("end of a record's text", next));
            return Err(desc);
        };
        let block = self.data.offset(start);
        if self.memory.u64(block).about("prb_data_block")? != id {
            return Ok(None);
        }
        let len = room.saturating_sub(BLOCK_HEAD).min(len);
        self.memory
            .bytes(block.offset(BLOCK_HEAD), len as usize)
            .about("prb_data_block")
            .map(Some)
    }
}

impl<M: PhysMem + ?Sized> Iterator for Log<'_, '_, M> {
    type Item = Result<Record, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let id = self.id;
            self.id = id.wrapping_add(1) & ID_MASK;
            if let Some(record) = self.record(id).transpose() {
                if record.is_err() {
                    self.patience = self.patience.checked_sub(1)?;
                }
                return Some(record);
            }
        }
    }
}
