//! Red-black trees (`include/linux/rbtree.h`), plain, cached and augmented: all start with the pointer to the root.

use super::DEFAULT_BOUND;
use crate::addr::Kva;
use crate::error::{About, Reason, WalkError};
use crate::kernel_memory::KernelMemory;
use crate::memory::PhysMem;
use crate::tables::RB_COLOR_MASK;
use crate::types::RbNode;
use alloc::vec::Vec;

/// Twice the logarithm of the number of nodes 64 bits can address.
const MAX_DEPTH: usize = 128;

/// The elements of a tree, in the order of their keys.
///
/// Every node's parent pointer has to lead back. A child that fails costs its subtree: the error is yielded and the walk
/// goes on. As every node has one parent, none is visited twice.
#[derive(Debug)]
pub struct RbTree<'k, 'm, M: PhysMem + ?Sized> {
    memory: &'k KernelMemory<'m, M>,
    types: &'k RbNode,
    member: u64,
    /// Nodes whose left subtree is under way or done, and that are still to be yielded.
    path: Vec<Kva>,
    /// The subtree to go down next: its root and the parent that has to stand in it.
    descend: Option<(Kva, Kva)>,
    /// What is wrong with the right child of the node yielded last.
    pending: Option<WalkError>,
    left: u64,
    bound: u64,
}

impl<'k, 'm, M: PhysMem + ?Sized> RbTree<'k, 'm, M> {
    /// The elements of the tree whose `rb_root` is at `root`; `member` is the offset in bytes of the `rb_node` in an
    /// element.
    ///
    /// # Errors
    /// The root pointer cannot be read.
    pub fn new(memory: &'k KernelMemory<'m, M>, types: &'k RbNode, root: Kva, member: u32) -> Result<Self, WalkError> {
        let top = memory.pointer(root).about("rb_root")?;
        let descend = (!top.is_null()).then_some((top, Kva::NULL));
        let bound = DEFAULT_BOUND;
        Ok(Self {
            memory,
            types,
            member: member.into(),
            path: Vec::new(),
            descend,
            pending: None,
            left: bound,
            bound,
        })
    }

    /// Stops with an error after so many elements.
    pub fn bounded(self, bound: u64) -> Self {
        Self {
            left: bound,
            bound,
            ..self
        }
    }

    /// Checks a node's way back.
    fn check(&self, node: Kva, parent: Kva) -> Result<(), WalkError> {
        let object = "rb_node";
        if !node.is_aligned(8) {
            return Err(WalkError::new(object, node, Reason::Misaligned));
        }
        let back = Kva(self.memory.uint(node, self.types.parent).about(object)? & !RB_COLOR_MASK);
        if back != parent {
            return Err(WalkError::new(object, node, Reason::BackLink(back)));
        }
        if self.path.len() >= MAX_DEPTH {
            return Err(WalkError::new(object, node, Reason::TooDeep));
        }
        Ok(())
    }

    /// The subtree behind a child link, if there is one.
    fn child(&self, node: Kva, right: bool) -> Result<Option<(Kva, Kva)>, WalkError> {
        let field = if right { self.types.rb_right } else { self.types.rb_left };
        let child = self.memory.ptr(node, field).about("rb_node")?;
        if child.is_null() {
            return Ok(None);
        }
        if right && self.memory.ptr(node, self.types.rb_left).about("rb_node")? == child {
            return Err(WalkError::new(
                "rb_node",
                node,
                Reason::BadNode("both children are the same"),
            ));
        }
        Ok(Some((child, node)))
    }
}

impl<M: PhysMem + ?Sized> Iterator for RbTree<'_, '_, M> {
    /// Address of an element.
    type Item = Result<Kva, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.pending.take() {
            return Some(Err(error));
        }
        while let Some((node, parent)) = self.descend.take() {
            if let Err(error) = self.check(node, parent) {
                return Some(Err(error));
            }
            self.path.push(node);
            match self.child(node, false) {
                Ok(child) => self.descend = child,
                Err(error) => return Some(Err(error)),
            }
        }
        let node = self.path.last().copied()?;
        let Some(left) = self.left.checked_sub(1) else {
            self.path.clear();
            return Some(Err(WalkError::new("rb_node", node, Reason::Bound(self.bound))));
        };
        // The node leaves the path before its right subtree is entered; the path then holds ancestors only.
        self.path.pop();
        match self.child(node, true) {
            Ok(child) => self.descend = child,
            Err(error) => self.pending = Some(error),
        }
        self.left = left;
        Some(Ok(node.back(self.member)))
    }
}
