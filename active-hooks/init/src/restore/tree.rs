//! Who forks whom, and in which session: the part of the plan that depends on nothing but the records.
//!
//! A process gets its session by birth or makes its own, so a child that belongs to another session than its parent
//! does now was born before its parent left that session. From the leaves upwards this says in which session each
//! process has to be born, and whether before or after its parent's `setsid`.

use super::Refusal;
use shared_region::context::Process;
use std::collections::BTreeMap;

/// A process in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its parent among the processes to be restored; without one it becomes a child of the agent.
    pub parent: Option<u32>,
    /// The session it has to be born in; any if `None`.
    pub born_in: Option<u32>,
    /// Whether it makes a session of its own.
    pub leads_session: bool,
    /// Children, ascending.
    pub children: Vec<u32>,
}

/// The tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Nodes by process id.
    pub nodes: BTreeMap<u32, Node>,
    /// Processes without a parent, those that need another process's session last.
    pub roots: Vec<u32>,
    /// Processes that cannot have their session, with the reason. They are not in `nodes`.
    pub refused: Vec<(u32, Refusal)>,
}

impl Tree {
    /// Plans for these processes.
    pub fn plan<'a>(processes: impl Iterator<Item = &'a Process>) -> Self {
        let by_id: BTreeMap<u32, &Process> = processes.map(|process| (process.tgid, process)).collect();
        let mut tree = Self::default();
        for (&id, process) in &by_id {
            let node = Node {
                parent: Some(process.ppid).filter(|parent| *parent != id && by_id.contains_key(parent)),
                leads_session: process.sid == id,
                born_in: (process.sid != id).then_some(process.sid),
                children: Vec::new(),
            };
            tree.nodes.insert(id, node);
        }
        tree.cut_cycles();
        for (&id, process) in &by_id {
            if tree.nodes[&id].parent == Some(process.ppid) {
                if let Some(parent) = tree.nodes.get_mut(&process.ppid) {
                    parent.children.push(id);
                }
            }
        }
        let roots: Vec<u32> = by_id
            .keys()
            .copied()
            .filter(|id| tree.nodes[id].parent.is_none())
            .collect();
        for root in &roots {
            tree.settle(*root);
        }
        let (late, early): (Vec<u32>, Vec<u32>) = roots
            .into_iter()
            .filter(|id| tree.nodes.contains_key(id))
            .chain(std::mem::take(&mut tree.roots))
            .partition(|id| tree.nodes[id].born_in.is_some_and(|sid| by_id.contains_key(&sid)));
        tree.roots = early.into_iter().chain(late).collect();
        tree
    }

    /// A parent relation that runs in a circle is an allegation the records cannot keep: its members become roots.
    fn cut_cycles(&mut self) {
        let bound = self.nodes.len();
        let ids: Vec<u32> = self.nodes.keys().copied().collect();
        for id in ids {
            let mut at = id;
            let ends = (0..=bound).any(|_| match self.nodes[&at].parent {
                Some(parent) => {
                    at = parent;
                    false
                }
                None => true,
            });
            if !ends {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.parent = None;
                }
            }
        }
    }

    /// Finds the birth sessions in the subtree of `top`, children before parents.
    fn settle(&mut self, top: u32) {
        let mut order = vec![top];
        let mut next = 0;
        while let Some(&id) = order.get(next) {
            order.extend(&self.nodes[&id].children);
            next += 1;
        }
        for id in order.into_iter().rev() {
            let node = self.nodes[&id].clone();
            let mut kept = Vec::new();
            let mut born_in = node.born_in;
            for child in node.children {
                let wanted = self.nodes[&child].born_in;
                let fits = match wanted {
                    None => true,
                    Some(sid) if node.leads_session && sid == id => true,
                    Some(sid) if born_in.is_none_or(|own| own == sid) => {
                        born_in = Some(sid);
                        true
                    }
                    Some(_) => false,
                };
                if fits {
                    kept.push(child);
                } else {
                    self.refuse(child);
                }
            }
            if let Some(node) = self.nodes.get_mut(&id) {
                node.children = kept;
                node.born_in = born_in;
            }
        }
    }

    /// Refuses a child that its parent cannot bear in the right session; its own children become roots.
    fn refuse(&mut self, id: u32) {
        let Some(node) = self.nodes.remove(&id) else { return };
        let session = node.born_in.unwrap_or(0);
        self.refused.push((
            id,
            Refusal::new(
                "session",
                format!("session {session} is neither its own nor its parent's"),
            ),
        ));
        for child in node.children {
            if let Some(orphan) = self.nodes.get_mut(&child) {
                orphan.parent = None;
                self.roots.push(child);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(tgid: u32, ppid: u32, sid: u32) -> Process {
        Process {
            tgid,
            ppid,
            sid,
            ..Process::default()
        }
    }

    #[test]
    fn a_daemon_and_its_workers() {
        let tree = Tree::plan([process(10, 1, 10), process(11, 10, 10), process(12, 10, 12)].iter());
        assert_eq!(tree.roots, [10]);
        assert_eq!(tree.nodes[&10].born_in, None);
        assert_eq!(tree.nodes[&11].born_in, Some(10));
        assert_eq!(tree.nodes[&12].born_in, None);
    }

    #[test]
    fn a_child_born_before_its_parent_left_the_session() {
        let tree = Tree::plan([process(20, 1, 20), process(21, 20, 5)].iter());
        assert_eq!(tree.nodes[&20].born_in, Some(5));
        assert_eq!(tree.nodes[&21].born_in, Some(5));
    }

    #[test]
    fn members_of_a_dead_leaders_session_are_roots() {
        let tree = Tree::plan([process(31, 30, 30), process(32, 30, 30)].iter());
        assert_eq!(tree.roots, [31, 32]);
        assert_eq!(tree.nodes[&31].born_in, Some(30));
    }

    #[test]
    fn a_root_in_a_living_leaders_session_comes_after_it() {
        let tree = Tree::plan([process(40, 1, 41), process(41, 1, 41)].iter());
        assert_eq!(tree.roots, [41, 40]);
    }

    #[test]
    fn a_child_in_a_third_session_is_refused_and_its_children_are_kept() {
        let tree = Tree::plan([process(50, 1, 60), process(51, 50, 70), process(52, 51, 52)].iter());
        assert_eq!(tree.refused.len(), 1);
        assert_eq!(tree.refused[0].0, 51);
        assert_eq!(tree.roots, [50, 52]);
    }

    #[test]
    fn a_circle_of_parents_is_cut() {
        let tree = Tree::plan([process(1, 2, 1), process(2, 1, 2), process(3, 2, 3)].iter());
        assert_eq!(tree.nodes.len(), 3);
        assert!(!tree.roots.is_empty());
    }
}
