//! Doubly linked circular lists (`include/linux/list.h`).

use super::DEFAULT_BOUND;
use crate::addr::Kva;
use crate::error::{ReadError, Reason, WalkError};
use crate::kernel_memory::KernelMemory;
use crate::memory::PhysMem;
use crate::types::ListHead;

/// The elements of a list, in order. See [`List::new`].
///
/// Every node's `prev` has to lead back to the node before. Where it does not (a list torn by a CPU that was stopped
/// while it changed it, or a wild pointer) the error is yielded once, and the walk goes on from the head backwards up to
/// the break: those elements come last to first.
#[derive(Debug)]
pub struct List<'k, 'm, M: PhysMem + ?Sized> {
    memory: &'k KernelMemory<'m, M>,
    types: &'k ListHead,
    head: Kva,
    member: u64,
    /// The node reached last, in the direction of the walk.
    at: Kva,
    state: State,
    left: u64,
    bound: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Forward,
    /// Going back from the head; ends at this node, which was the last one reached forwards.
    Backward(Kva),
    Done,
}

impl<'k, 'm, M: PhysMem + ?Sized> List<'k, 'm, M> {
    /// The elements of the list at `head`; `member` is the offset in bytes of the `list_head` in an element.
    pub fn new(memory: &'k KernelMemory<'m, M>, types: &'k ListHead, head: Kva, member: u32) -> Self {
        let bound = DEFAULT_BOUND;
        Self {
            memory,
            types,
            head,
            member: member.into(),
            at: head,
            state: State::Forward,
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

    fn link(&self, node: Kva, back: bool) -> Result<Kva, ReadError> {
        if !node.is_aligned(8) {
            return Err(ReadError {
                address: node,
                reason: Reason::Misaligned,
            });
        }
        self.memory
            .ptr(node, if back { self.types.prev } else { self.types.next })
    }

    /// The node after `at`, or why it is none.
    fn forward(&self) -> Result<Kva, WalkError> {
        let object = "list_head";
        let error = |error: ReadError| WalkError::new(object, error.address, error.reason);
        let next = self.link(self.at, false).map_err(error)?;
        let back = self.link(next, true).map_err(error)?;
        if back != self.at {
            return Err(WalkError::new(object, next, Reason::BackLink(back)));
        }
        Ok(next)
    }

    /// The node before `at`, if both links agree.
    fn backward(&self) -> Option<Kva> {
        let before = self.link(self.at, true).ok()?;
        (self.link(before, false).ok()? == self.at).then_some(before)
    }
}

impl<M: PhysMem + ?Sized> Iterator for List<'_, '_, M> {
    /// Address of an element.
    type Item = Result<Kva, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        let reached = match self.state {
            State::Done => return None,
            State::Forward => match self.forward() {
                Ok(next) => next,
                Err(error) => {
                    self.state = State::Backward(self.at);
                    self.at = self.head;
                    return Some(Err(error));
                }
            },
            State::Backward(stop) => match self.backward().filter(|&before| before != stop) {
                Some(before) => before,
                None => {
                    self.state = State::Done;
                    return None;
                }
            },
        };
        if reached == self.head {
            self.state = State::Done;
            return None;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.state = State::Done;
            return Some(Err(WalkError::new("list_head", reached, Reason::Bound(self.bound))));
        };
        self.left = left;
        self.at = reached;
        Some(Ok(reached.back(self.member)))
    }
}
