//! Pages that a parent and its child still shared copy-on-write when their kernel died.
//!
//! Such a page is adopted in the parent before it forks the child, which inherits it; that is how it came to be shared.
//! A page that is shared by others (the common ancestor is gone or has written to it since) is adopted by the first
//! that gets it and copied for each further one.

use super::{memory, tree::Tree, world::Space, world::World};
use shared_region::{
    context::{frame_kind, Backing, FrameRun, Mapping},
    layout::MAX_RAM,
    PAGE_SIZE,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// madvise values that say what a child inherits of a mapping.
const FORK_ADVICE: [u32; 2] = [libc::MADV_DONTFORK as u32, libc::MADV_WIPEONFORK as u32];

/// A page of a process: address, frame, kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// Address.
    pub va: u64,
    /// Frame number.
    pub pfn: u64,
    /// One of [`frame_kind`].
    pub kind: u64,
}

/// What one process has in common with its parent and children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Parts of mappings that it keeps from its parent: start, end.
    pub kept: Vec<(u64, u64)>,
    /// Addresses of pages in them that it has from its parent.
    pub inherited: BTreeSet<u64>,
    /// Pages to be adopted before its children are forked.
    pub early: Vec<Page>,
}

/// Who inherits what.
#[derive(Debug, Default)]
pub struct Shares {
    by_process: BTreeMap<u32, Share>,
    /// Frames that more than one record names.
    shared: HashSet<u64>,
    /// Those of them that are some process's own memory by now.
    adopted: HashSet<u64>,
}

impl Shares {
    /// Plans for all processes of the tree.
    pub fn plan(world: &World<'_>, tree: &Tree) -> Self {
        let mut shares = Self::default();
        let mut owned = Owned::default();
        for run in world.spaces.values().flat_map(Space::runs) {
            let frames = run.pfn()..run.pfn() + run.pages();
            match run.kind() {
                frame_kind::COPIED => {}
                frame_kind::SHARED => shares.shared.extend(frames),
                // That two processes own a frame is a contradiction, but one that does no harm this way.
                _ => owned.insert(frames, |frame| {
                    shares.shared.insert(frame);
                }),
            }
        }
        if shares.shared.is_empty() {
            return shares;
        }
        let space_of = |id: &u32| world.spaces.get(&world.processes.get(id)?.record.mm);
        let mut pages: BTreeMap<u32, Vec<Page>> = BTreeMap::new();
        for id in tree.nodes.keys() {
            if let Some(space) = space_of(id) {
                pages.insert(*id, shares.pages(space));
            }
        }
        for (id, node) in &tree.nodes {
            let (Some(parent), Some(parents)) = (space_of(id), pages.get(id)) else {
                continue;
            };
            for child in &node.children {
                if let (Some(space), Some(theirs)) = (space_of(child), pages.get(child)) {
                    shares.pair((*id, parent, parents), (*child, space, theirs));
                }
            }
        }
        shares.settle_early();
        shares
    }

    /// What a process shares; nothing if it shares with nobody.
    pub fn of(&self, id: u32) -> Option<&Share> {
        self.by_process.get(&id)
    }

    /// The pages of a space whose frames are shared.
    fn pages(&self, space: &Space<'_>) -> Vec<Page> {
        let mut pages: Vec<Page> = every_page(space)
            .filter(|page| self.shared.contains(&page.pfn))
            .collect();
        pages.sort_unstable();
        pages
    }

    fn pair(
        &mut self,
        (parent, parents_space, parents): (u32, &Space<'_>, &[Page]),
        (child, space, pages): (u32, &Space<'_>, &[Page]),
    ) {
        let (mine, theirs) = (&space.record, &parents_space.record);
        if mine.exe != theirs.exe || mine.exe_inode != theirs.exe_inode {
            return;
        }
        let same: Vec<Page> = pages
            .iter()
            .filter(|page| {
                let at = parents.binary_search_by_key(&page.va, |other| other.va);
                at.is_ok_and(|at| parents[at].pfn == page.pfn)
            })
            .copied()
            .collect();
        let mut kept = Vec::new();
        for mapping in space.mappings.iter().filter(|mapping| memory::is_ordinary(mapping)) {
            for other in parents_space.mappings.iter().filter(|other| compatible(mapping, other)) {
                let (start, end) = (mapping.start.max(other.start), mapping.end.min(other.end));
                if same.iter().any(|page| (start..end).contains(&page.va)) {
                    kept.push((start, end));
                }
            }
        }
        let within = |page: &&Page| kept.iter().any(|&(start, end)| (start..end).contains(&page.va));
        let inherited: Vec<Page> = same.iter().filter(within).copied().collect();
        let share = self.by_process.entry(parent).or_default();
        share.early.extend(&inherited);
        let share = self.by_process.entry(child).or_default();
        share.kept = kept;
        share.inherited = inherited.iter().map(|page| page.va).collect();
    }

    /// A page that a parent has inherited itself is there already when it forks.
    fn settle_early(&mut self) {
        for share in self.by_process.values_mut() {
            let inherited = &share.inherited;
            share.early.retain(|page| !inherited.contains(&page.va));
            share.early.sort_unstable_by_key(|page| page.va);
            share.early.dedup_by_key(|page| page.va);
        }
    }

    /// Addresses of the pages that a process has when it forks.
    pub fn before_fork(&self, id: u32) -> BTreeSet<u64> {
        let Some(share) = self.of(id) else {
            return BTreeSet::new();
        };
        share
            .early
            .iter()
            .map(|page| page.va)
            .chain(share.inherited.iter().copied())
            .collect()
    }

    /// Puts the shared pages among `pages` in order for adoption: in place for the first process that gets a frame,
    /// as a copy for all others.
    pub fn runs(&mut self, pages: impl Iterator<Item = Page>) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut last: Option<(Page, u64)> = None;
        for page in pages {
            let mut page = page;
            if self.shared.contains(&page.pfn) && page.kind != frame_kind::COPIED {
                let first = self.adopted.insert(page.pfn);
                page.kind = if first { frame_kind::OWN } else { frame_kind::SHARED };
            }
            last = Some(match last {
                Some((start, count)) if follows(start, count, page) => (start, count + 1),
                Some((start, count)) => {
                    payload.extend(FrameRun::new(start.va, start.pfn, count, start.kind).to_bytes());
                    (page, 1)
                }
                None => (page, 1),
            });
        }
        if let Some((start, count)) = last {
            payload.extend(FrameRun::new(start.va, start.pfn, count, start.kind).to_bytes());
        }
        payload
    }

    /// Whether a frame of any process is shared at all.
    pub fn is_empty(&self) -> bool {
        self.shared.is_empty()
    }
}

/// Frames that some record has as its process's own, a bit for each.
#[derive(Debug, Default)]
struct Owned(Vec<u64>);

impl Owned {
    /// Adds frames and tells each that was there. One beyond all RAM that this version supports never is.
    fn insert(&mut self, frames: std::ops::Range<u64>, mut known: impl FnMut(u64)) {
        let end = frames.end.min(MAX_RAM / PAGE_SIZE);
        let mut at = frames.start;
        while at < end {
            let (word, first) = ((at / 64) as usize, at % 64);
            let count = (64 - first).min(end - at);
            let bits = (u64::MAX >> (64 - count)) << first;
            if word >= self.0.len() {
                self.0.resize(word + 1, 0);
            }
            let mut again = self.0[word] & bits;
            self.0[word] |= bits;
            while again != 0 {
                known(at - first + u64::from(again.trailing_zeros()));
                again &= again - 1;
            }
            at += count;
        }
    }
}

fn follows(start: Page, count: u64, page: Page) -> bool {
    let next = (start.va + count * PAGE_SIZE, start.pfn + count, start.kind);
    count < FrameRun::MAX_PAGES && next == (page.va, page.pfn, page.kind)
}

/// Every recorded page of a space that becomes anonymous memory.
pub fn every_page<'s>(space: &'s Space<'_>) -> impl Iterator<Item = Page> + 's {
    memory::contents(space).flat_map(FrameRun::iter).flat_map(|run| {
        (0..run.pages()).map(move |index| Page {
            va: run.va + index * PAGE_SIZE,
            pfn: run.pfn() + index,
            kind: run.kind(),
        })
    })
}

/// Whether a mapping can be what a fork has made of another.
fn compatible(mapping: &Mapping, other: &Mapping) -> bool {
    let private = matches!(mapping.backing, Backing::Anonymous | Backing::FilePrivate);
    let offset = |mapping: &Mapping| mapping.offset.wrapping_sub(mapping.start);
    private
        && mapping.backing == other.backing
        && mapping.inode == other.inode
        && (mapping.inode == 0 || offset(mapping) == offset(other))
        && mapping.map_flags == other.map_flags
        && mapping.advice == other.advice
        && mapping.name == other.name
        && !other.advice.iter().any(|advice| FORK_ADVICE.contains(advice))
        && mapping.start < other.end
        && other.start < mapping.end
}

/// What is left of a range without others, ascending. The others do not overlap.
pub fn without(range: (u64, u64), others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut others: Vec<(u64, u64)> = others
        .iter()
        .map(|&(start, end)| (start.max(range.0), end.min(range.1)))
        .filter(|(start, end)| start < end)
        .collect();
    others.sort_unstable();
    let mut at = range.0;
    let mut left = Vec::new();
    for (start, end) in others {
        if at < start {
            left.push((at, start));
        }
        at = end;
    }
    if at < range.1 {
        left.push((at, range.1));
    }
    left
}

/// Pages put together into ranges.
pub fn ranges(pages: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for va in pages {
        match ranges.last_mut() {
            Some((_, end)) if *end == va => *end += PAGE_SIZE,
            _ => ranges.push((va, va + PAGE_SIZE)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::world::Member;
    use shared_region::context::Process;

    const OWN: u64 = frame_kind::OWN;
    const SHARED: u64 = frame_kind::SHARED;

    fn payload(pages: &[(u64, u64, u64)]) -> Vec<u8> {
        let runs = pages
            .iter()
            .map(|&(page, pfn, kind)| FrameRun::new(page << 12, pfn, 1, kind));
        runs.flat_map(FrameRun::to_bytes).collect()
    }

    /// Processes 1 and 2 (its child) with one anonymous mapping of 16 pages and these frames.
    fn world<'a>(parent: &'a [u8], child: &'a [u8]) -> World<'a> {
        let mut world = World::default();
        for (id, ppid, frames) in [(1, 0, parent), (2, 1, child)] {
            let record = Process {
                tgid: id,
                ppid,
                sid: 1,
                mm: id.into(),
                ..Process::default()
            };
            world.processes.insert(
                id,
                Member {
                    record,
                    ..Member::default()
                },
            );
            let space = world.spaces.entry(id.into()).or_default();
            space.mappings.push(Mapping {
                start: 0x10_0000,
                end: 0x11_0000,
                ..Mapping::default()
            });
            space.frames.push(frames);
        }
        world
    }

    fn tree(world: &World<'_>) -> Tree {
        Tree::plan(world.processes.values().map(|member| &member.record))
    }

    #[test]
    fn a_page_of_parent_and_child_is_adopted_early_and_inherited() {
        let parent = payload(&[(0x100, 7, SHARED), (0x101, 8, OWN), (0x102, 9, OWN)]);
        let child = payload(&[(0x100, 7, OWN), (0x101, 10, OWN), (0x102, 9, SHARED)]);
        let world = world(&parent, &child);
        let mut shares = Shares::plan(&world, &tree(&world));
        let early: Vec<u64> = shares.of(1).unwrap().early.iter().map(|page| page.pfn).collect();
        assert_eq!(early, [7, 9]);
        let share = shares.of(2).unwrap().clone();
        assert_eq!(share.inherited, BTreeSet::from([0x10_0000, 0x10_2000]));
        assert_eq!(share.kept, [(0x10_0000, 0x11_0000)]);
        let early = shares.of(1).unwrap().early.clone();
        let kinds: Vec<u64> = FrameRun::iter(&shares.runs(early.into_iter()))
            .map(FrameRun::kind)
            .collect();
        assert_eq!(kinds, [OWN, OWN]);
    }

    #[test]
    fn a_frame_at_two_addresses_is_copied_for_the_second() {
        let parent = payload(&[(0x100, 7, OWN)]);
        let child = payload(&[(0x105, 7, SHARED)]);
        let world = world(&parent, &child);
        let mut shares = Shares::plan(&world, &tree(&world));
        assert!(shares.of(2).is_none_or(|share| share.inherited.is_empty()));
        let mut kind_of = |id: u64| {
            let runs = shares.runs(every_page(&world.spaces[&id]));
            let kind = FrameRun::iter(&runs).next().unwrap().kind();
            kind
        };
        assert_eq!((kind_of(2), kind_of(1)), (OWN, SHARED));
    }

    #[test]
    fn a_frame_that_two_claim_to_own_is_adopted_once() {
        let parent = payload(&[(0x100, 7, OWN)]);
        let child = payload(&[(0x105, 7, OWN)]);
        let world = world(&parent, &child);
        let mut shares = Shares::plan(&world, &tree(&world));
        let mut kind_of = |id: u64| {
            let runs = shares.runs(every_page(&world.spaces[&id]));
            let kind = FrameRun::iter(&runs).next().unwrap().kind();
            kind
        };
        assert_eq!((kind_of(1), kind_of(2)), (OWN, SHARED));
    }

    #[test]
    fn frames_that_are_known_are_told_one_by_one() {
        let mut owned = Owned::default();
        let mut insert = |frames| {
            let mut known = Vec::new();
            owned.insert(frames, |frame| known.push(frame));
            known
        };
        assert_eq!(insert(60..200), []);
        assert_eq!(insert(0..62), [60, 61]);
        assert_eq!(insert(199..300), [199]);
        assert_eq!(insert(128..192), (128..192).collect::<Vec<_>>());
        let beyond = MAX_RAM / PAGE_SIZE;
        assert_eq!(insert(beyond..beyond + 2), []);
        assert_eq!(insert(beyond..beyond + 2), []);
    }

    #[test]
    fn without_sharing_there_is_no_plan() {
        let parent = payload(&[(0x100, 7, OWN)]);
        let child = payload(&[(0x100, 8, OWN)]);
        let world = world(&parent, &child);
        assert!(Shares::plan(&world, &tree(&world)).is_empty());
    }

    #[test]
    fn what_is_left_of_a_range() {
        assert_eq!(without((0, 10), &[(6, 20), (2, 3)]), [(0, 2), (3, 6)]);
        assert_eq!(without((0, 10), &[(0, 10)]), []);
        assert_eq!(
            ranges([0x1000, 0x2000, 0x4000].into_iter()),
            [(0x1000, 0x3000), (0x4000, 0x5000)]
        );
    }
}
