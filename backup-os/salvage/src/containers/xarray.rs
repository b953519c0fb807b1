//! XArrays (`include/linux/xarray.h`), and with them IDRs and radix trees, which are the same in memory.

use super::DEFAULT_BOUND;
use crate::addr::Kva;
use crate::error::{About, Reason, WalkError};
use crate::kernel_memory::KernelMemory;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::tables::{GFP_BITS_SHIFT, XA_CHUNK_SHIFT, XA_INTERNAL, XA_NODE_MIN, XA_SIBLING_END};
use alloc::vec::Vec;

/// Slots of a node.
const SLOTS: usize = 1 << XA_CHUNK_SHIFT;
/// Marks an entry can have (`XA_MAX_MARKS`).
const MARKS: usize = 3;
/// `shift` of the topmost node of an array that uses all 64 bits of the index.
const MAX_SHIFT: u64 = 60;

crate::mirrors! {
    /// The head of an array.
    pub struct XArray = "xarray" {
        /// The single entry or the topmost node.
        xa_head: Field,
        /// Lock and allocation flags, and the marks of a single entry.
        xa_flags: Field,
    }

    /// A node of 64 slots.
    pub struct XaNode = "xa_node" {
        /// log2 of the number of indices of a slot.
        shift: Field,
        /// The node's slot in its parent.
        offset: Field,
        /// The node above.
        parent: Field,
        /// Entries and nodes below.
        slots: Field,
        /// A bitmap of slots for each mark.
        marks: Field = "tags" | "marks",
    }
}

crate::constants! {
    /// Where the marks of a single entry stand: `XA_FLAGS_MARK(m)` is bit `__GFP_BITS_SHIFT` + m of `xa_flags`.
    pub struct XaMarks {
        /// `__GFP_BITS_SHIFT`; an enumeration constant from Linux 6.10 on, a macro before ([`GFP_BITS_SHIFT`]).
        gfp_bits_shift: Option<u32> = "___GFP_LAST_BIT",
    }
}

/// The mirrors a walk needs.
#[derive(Clone, Copy, Debug)]
pub struct XArrayTypes<'k> {
    /// The head.
    pub head: &'k XArray,
    /// A node.
    pub node: &'k XaNode,
    /// Marks of a single entry.
    pub marks: &'k XaMarks,
}

/// An entry of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its first index.
    pub index: u64,
    /// Number of indices it stands for (a large folio fills several).
    pub span: u64,
    /// The word stored: a pointer, or a value (bit 0 set, `xa_is_value`).
    pub value: u64,
    /// Bit `m` is set if mark `m` is.
    pub marks: u8,
}

/// A node of the last level.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// Index of the first slot.
    pub base: u64,
    /// What is stored in each.
    pub slots: &'a [u64; SLOTS],
    marks: &'a [u64; MARKS],
}

impl Leaf<'_> {
    /// A bitmap of the slots that have a mark; all, if there is no such mark.
    pub fn marked(&self, mark: u8) -> u64 {
        self.marks.get(usize::from(mark)).copied().unwrap_or(u64::MAX)
    }
}

/// The entries of an array, ascending by index; retry and zero entries are left out.
///
/// A node whose parent, slot or level is not what led to it costs its subtree: the error is yielded and the walk goes
/// on.
#[derive(Debug)]
pub struct XArrayWalk<'k, 'm, M: PhysMem + ?Sized> {
    memory: &'k KernelMemory<'m, M>,
    types: &'k XaNode,
    /// Only subtrees and entries with this mark are visited.
    only: Option<u8>,
    /// Only entries that stand for an index from the first to the last of these.
    range: (u64, u64),
    single: Option<Entry>,
    pending: Option<Pending>,
    path: Vec<Frame>,
    left: u64,
    bound: u64,
}

/// A node to go down into next.
#[derive(Clone, Copy, Debug)]
struct Pending {
    node: Kva,
    parent: Kva,
    offset: u64,
    /// Level it has to have; the topmost node may have any.
    shift: Option<u64>,
    base: u64,
}

#[derive(Debug)]
struct Frame {
    node: Kva,
    shift: u64,
    base: u64,
    next: usize,
    slots: [u64; SLOTS],
    marks: [u64; MARKS],
}

impl<'k, 'm, M: PhysMem + ?Sized> XArrayWalk<'k, 'm, M> {
    /// The entries of the array at `array`.
    ///
    /// # Errors
    /// The head cannot be read.
    pub fn new(memory: &'k KernelMemory<'m, M>, types: XArrayTypes<'k>, array: Kva) -> Result<Self, WalkError> {
        let value = memory.uint(array, types.head.xa_head).about("xarray")?;
        let bound = DEFAULT_BOUND;
        let mut walk = Self {
            memory,
            types: types.node,
            only: None,
            range: (0, u64::MAX),
            single: None,
            pending: None,
            path: Vec::new(),
            left: bound,
            bound,
        };
        if is_node(value) {
            let node = Kva(value.wrapping_sub(XA_INTERNAL));
            walk.pending = Some(Pending {
                node,
                parent: Kva::NULL,
                offset: 0,
                shift: None,
                base: 0,
            });
        } else if value != 0 && !is_internal(value) {
            let flags = memory.uint(array, types.head.xa_flags).about("xarray")?;
            let lowest = types.marks.gfp_bits_shift.unwrap_or(GFP_BITS_SHIFT);
            walk.single = Some(Entry {
                index: 0,
                span: 1,
                value,
                marks: single_marks(flags, lowest),
            });
        }
        Ok(walk)
    }

    /// Visits only entries with a mark.
    pub fn marked(self, mark: u8) -> Self {
        Self {
            only: Some(mark),
            ..self
        }
    }

    /// Visits only entries that stand for an index from `first` to `last`.
    pub fn within(self, first: u64, last: u64) -> Self {
        Self {
            range: (first, last),
            ..self
        }
    }

    /// Stops with an error after so many entries.
    pub fn bounded(self, bound: u64) -> Self {
        Self {
            left: bound,
            bound,
            ..self
        }
    }

    /// Shows each node of the last level whole. For arrays of which most slots are in use, and of which each entry is looked at.
    ///
    /// # Errors
    /// A node is not what led to it, or there is no end. What was shown is sound.
    pub fn leaves(mut self, mut show: impl FnMut(Leaf<'_>)) -> Result<(), WalkError> {
        if let Some(entry) = self.single.take() {
            let (mut slots, mut marks) = ([0; SLOTS], [0; MARKS]);
            slots[0] = entry.value;
            for (mark, word) in (0u8..).zip(&mut marks) {
                *word = u64::from(entry.marks & bit(mark) != 0);
            }
            show(Leaf {
                base: 0,
                slots: &slots,
                marks: &marks,
            });
        }
        loop {
            if let Some(to) = self.pending.take() {
                self.enter(to)?;
            }
            let Some(frame) = self.path.last_mut() else {
                return Ok(());
            };
            if frame.shift == 0 {
                let Some(left) = self.left.checked_sub(SLOTS as u64) else {
                    return Err(WalkError::new("xarray", frame.node, Reason::Bound(self.bound)));
                };
                self.left = left;
                show(Leaf {
                    base: frame.base,
                    slots: &frame.slots,
                    marks: &frame.marks,
                });
                self.path.pop();
                continue;
            }
            let slot = frame.next;
            frame.next = slot.saturating_add(1);
            match frame.slots.get(slot) {
                None => drop(self.path.pop()),
                Some(&value) if is_node(value) => self.pending = Some(frame.below(slot, value)?),
                // An entry for many indices, or none.
                Some(_) => {}
            }
        }
    }

    /// Reads and checks a node and puts it on the path.
    fn enter(&mut self, to: Pending) -> Result<(), WalkError> {
        let object = "xa_node";
        let bad = |reason| WalkError::new(object, to.node, reason);
        if !to.node.is_aligned(8) {
            return Err(bad(Reason::Misaligned));
        }
        let parent = self.memory.ptr(to.node, self.types.parent).about(object)?;
        if parent != to.parent {
            return Err(bad(Reason::BackLink(parent)));
        }
        let offset = self.memory.uint(to.node, self.types.offset).about(object)?;
        // The topmost node keeps whatever slot it had when it was created.
        if to.shift.is_some() && offset != to.offset {
            return Err(bad(Reason::BadValue("slot in its parent", offset)));
        }
        let shift = self.memory.uint(to.node, self.types.shift).about(object)?;
        let level_fits = shift <= MAX_SHIFT && shift.is_multiple_of(u64::from(XA_CHUNK_SHIFT));
        if !level_fits || to.shift.is_some_and(|expected| expected != shift) {
            return Err(bad(Reason::BadValue("shift", shift)));
        }
        if self.types.slots.count() as usize != SLOTS {
            return Err(bad(Reason::BadNode("not 64 slots")));
        }

        let mut raw = [0; SLOTS * 8];
        self.memory
            .read(to.node.offset(u64::from(self.types.slots.offset)), &mut raw)
            .about(object)?;
        let mut slots = [0; SLOTS];
        for (slot, word) in slots.iter_mut().zip(raw.as_chunks::<8>().0) {
            *slot = u64::from_le_bytes(*word);
        }
        let marks_at = to.node.offset(u64::from(self.types.marks.offset));
        let raw = self.memory.array::<{ MARKS * 8 }>(marks_at).about(object)?;
        let mut marks = [0; MARKS];
        for (mark, word) in marks.iter_mut().zip(raw.as_chunks::<8>().0) {
            *mark = u64::from_le_bytes(*word);
        }
        self.path.push(Frame {
            node: to.node,
            shift,
            base: to.base,
            next: 0,
            slots,
            marks,
        });
        Ok(())
    }
}

impl<M: PhysMem + ?Sized> Iterator for XArrayWalk<'_, '_, M> {
    type Item = Result<Entry, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.single.take() {
            let wanted = self.range.0 == 0 && self.only.is_none_or(|mark| entry.marks & bit(mark) != 0);
            return wanted.then_some(Ok(entry));
        }
        loop {
            if let Some(to) = self.pending.take() {
                if let Err(error) = self.enter(to) {
                    return Some(Err(error));
                }
            }
            let (only, (first, last)) = (self.only, self.range);
            let frame = self.path.last_mut()?;
            let slot = frame.next;
            let Some(&value) = frame.slots.get(slot) else {
                self.path.pop();
                continue;
            };
            frame.next = slot.saturating_add(1);
            let marks = frame.marks_of(slot);
            if value == 0 || only.is_some_and(|mark| marks & bit(mark) == 0) {
                continue;
            }
            let index = frame.base | (slot as u64).wrapping_shl(frame.shift as u32);
            let slots = 1u64.wrapping_shl(frame.shift as u32);
            let siblings = if is_internal(value) { 0 } else { frame.siblings(slot) };
            let span = siblings.saturating_add(1).saturating_mul(slots);
            if index > last || index.saturating_add(span.saturating_sub(1)) < first {
                continue;
            }
            if is_node(value) {
                match frame.below(slot, value) {
                    Ok(to) => self.pending = Some(to),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            if is_internal(value) {
                // Sibling entries are counted with the entry they belong to.
                continue;
            }
            let Some(left) = self.left.checked_sub(1) else {
                let node = frame.node;
                self.path.clear();
                return Some(Err(WalkError::new("xarray", node, Reason::Bound(self.bound))));
            };
            self.left = left;
            return Some(Ok(Entry {
                index,
                span,
                value,
                marks,
            }));
        }
    }
}

impl Frame {
    /// The node that a slot leads to.
    fn below(&self, slot: usize, value: u64) -> Result<Pending, WalkError> {
        let node = Kva(value.wrapping_sub(XA_INTERNAL));
        let Some(shift) = self.shift.checked_sub(u64::from(XA_CHUNK_SHIFT)) else {
            let reason = Reason::BadNode("below the last level");
            return Err(WalkError::new("xa_node", node, reason));
        };
        Ok(Pending {
            node,
            parent: self.node,
            offset: slot as u64,
            shift: Some(shift),
            base: self.base | (slot as u64).wrapping_shl(self.shift as u32),
        })
    }

    fn marks_of(&self, slot: usize) -> u8 {
        (0u8..)
            .zip(self.marks)
            .fold(0, |all, (mark, word)| all | (((word >> slot) & 1) as u8) << mark)
    }

    /// How many slots behind this one hold sibling entries of it.
    fn siblings(&self, slot: usize) -> u64 {
        let own = ((slot as u64) << 2) | XA_INTERNAL;
        let behind = self.slots.get(slot.saturating_add(1)..).unwrap_or(&[]);
        behind
            .iter()
            .take_while(|&&value| value == own && slot < XA_SIBLING_END as usize)
            .count() as u64
    }
}

const fn bit(mark: u8) -> u8 {
    1u8.wrapping_shl(mark as u32)
}

/// `xa_is_internal`.
const fn is_internal(value: u64) -> bool {
    value & 3 == XA_INTERNAL
}

/// `xa_is_node`.
const fn is_node(value: u64) -> bool {
    is_internal(value) && value > XA_NODE_MIN
}

/// Marks of a single entry, from the flags of the head.
const fn single_marks(flags: u64, lowest: u32) -> u8 {
    (flags.wrapping_shr(lowest) & 7) as u8
}
