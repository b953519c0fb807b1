//! Hash chains: `hlist` (`include/linux/list.h`) and its variant with marked ends, `hlist_nulls`
//! (`include/linux/list_nulls.h`).

use super::DEFAULT_BOUND;
use crate::addr::Kva;
use crate::error::{About, ReadError, Reason, WalkError};
use crate::kernel_memory::KernelMemory;
use crate::memory::PhysMem;
use crate::types::HlistNode;

/// The elements of a chain, in order. Ends with an error at the first node whose `pprev` does not lead back.
#[derive(Debug)]
pub struct Hlist<'k, 'm, M: PhysMem + ?Sized> {
    memory: &'k KernelMemory<'m, M>,
    types: &'k HlistNode,
    member: u64,
    /// Address of the link to follow next; `None` when the walk is over.
    link: Option<Kva>,
    left: u64,
    bound: u64,
}

impl<'k, 'm, M: PhysMem + ?Sized> Hlist<'k, 'm, M> {
    /// The elements of the chain at `head`; `member` is the offset in bytes of the node in an element. A pointer with
    /// bit 0 set ends the chain as a null pointer does: nulls chains mark their ends so.
    pub fn new(memory: &'k KernelMemory<'m, M>, types: &'k HlistNode, head: Kva, member: u32) -> Self {
        let bound = DEFAULT_BOUND;
        Self {
            memory,
            types,
            member: member.into(),
            link: Some(head),
            left: bound,
            bound,
        }
    }

    /// Stops with an error after so many elements.
    pub fn bounded(self, bound: u64) -> Self {
        Self {
            left: bound,
            bound,
            ..self
        }
    }

    fn step(&self, link: Kva) -> Result<Option<Kva>, WalkError> {
        let object = "hlist_node";
        let node = self.memory.pointer(link).about(object)?;
        if node.is_null() || node.0 & 1 != 0 {
            return Ok(None);
        }
        if !node.is_aligned(8) {
            return Err(ReadError {
                address: node,
                reason: Reason::Misaligned,
            })
            .about(object);
        }
        let back = self.memory.ptr(node, self.types.pprev).about(object)?;
        if back != link {
            return Err(WalkError::new(object, node, Reason::BackLink(back)));
        }
        Ok(Some(node))
    }
}

impl<M: PhysMem + ?Sized> Iterator for Hlist<'_, '_, M> {
    /// Address of an element.
    type Item = Result<Kva, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        let link = self.link.take()?;
        let node = match self.step(link) {
            Ok(node) => node?,
            Err(error) => return Some(Err(error)),
        };
        let Some(left) = self.left.checked_sub(1) else {
            return Some(Err(WalkError::new("hlist_node", node, Reason::Bound(self.bound))));
        };
        self.left = left;
        self.link = Some(node.offset(u64::from(self.types.next.offset)));
        Some(Ok(node.back(self.member)))
    }
}
