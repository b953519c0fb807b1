//! Creates the processes in the order of the tree, each with its memory, descriptors and threads.

use super::{
    aio,
    arena::Arena,
    batch::Batch,
    clock::Elapsed,
    cow::{self, Page, Share, Shares},
    descriptors,
    high::High,
    host::Host,
    io_uring,
    keyrings::Keyrings,
    memory,
    meter::{self, Part},
    namespaces::{self, Visited},
    objects::Objects,
    pid_namespaces::{self, Birth},
    process::Built,
    tracee::Tracee,
    tree::{Node, Tree},
    user_memory::UserMemory,
    vdso::{self, OldText, Vdso},
    world::{Member, Space, World},
    OrRefuse, Refusal, Restored,
};
use crate::boot::pids;
use crate::sys::{self, CloneArgs, Tid};
use crate::takeover::fail_at;
use rustix::fs::{Mode, OFlags};
use shared_region::context::{frame_kind, FrameRun, Id, OpenFile};
use shared_region::fail_at::FailAt;
use shared_region::PAGE_SIZE;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
};
use zerocopy::IntoBytes;

/// Flags of a thread (include/uapi/linux/sched.h).
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;
const RSEQ_UNREGISTER: u64 = 1;
/// Bytes between the arena and a vDSO beside it.
const VDSO_GAP: u64 = 0x1_0000;
/// Bytes of room that the arena and that vDSO need.
pub const ROOM: u64 = super::arena::SIZE as u64 + 2 * VDSO_GAP + 0x10_0000;
/// A process with so many frames runs before it has them all: handing over as many takes some milliseconds.
const LAZY_PAGES: u64 = 2048;
/// So often a thread is made until it has the id that is wanted.
const ATTEMPTS: usize = 16;
/// `wait` status of a process that was killed.
const KILLED: u32 = libc::SIGKILL as u32;

/// The processes under construction.
pub struct Builder<'a> {
    /// The records.
    pub world: &'a World<'a>,
    /// The holder of frames.
    pub host: &'a dyn Host,
    /// Time since the dead kernel's last instant.
    pub elapsed: Elapsed,
    /// What the processes refer to.
    pub objects: Objects,
    /// Where calls are injected.
    pub arena: Arena,
    /// This kernel's vDSO.
    pub vdso: Vdso,
    /// What is known of the dead kernel's.
    pub old_vdso: OldText,
    /// Where this kernel's vDSO can go beside the old one, in every process.
    pub vdso_room: u64,
    /// Whether this kernel is the same build as the dead one.
    pub same_kernel: bool,
    /// What is built.
    pub built: BTreeMap<u32, Built>,
    /// What is not, and why.
    pub refused: BTreeMap<u32, Refusal>,
    /// Leaders of sessions and groups whose own leader is not restored; killed at the end.
    pub stand_ins: BTreeMap<u32, Tracee>,
    /// What was given up, but still holds frames that others need copies of.
    pub condemned: Vec<Built>,
    shares: Shares,
    executables: BTreeMap<Id, High>,
    terminals: BTreeMap<u32, High>,
    epolls: BTreeSet<Id>,
    keyrings: Keyrings,
    /// `/dev/null`, at a number that processes inherit.
    null: Option<High>,
}

/// Who calls clone.
#[derive(Clone, Copy, Debug)]
enum Creator {
    /// The agent itself.
    Agent,
    /// A process that becomes the parent.
    Parent(u32),
    /// A stand-in session leader that is the agent's child; the new process becomes its sibling.
    StandIn(u32),
    /// A process whose session is wanted, but not as parent.
    Session(u32),
}

impl<'a> Builder<'a> {
    /// Nothing built yet.
    pub fn new(
        world: &'a World<'a>,
        host: &'a dyn Host,
        elapsed: Elapsed,
        objects: Objects,
        arena: Arena,
        refused: BTreeMap<u32, Refusal>,
    ) -> Restored<Self> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Self {
            world,
            host,
            elapsed,
            objects,
            vdso: Vdso::of_this_kernel()?,
            old_vdso: OldText::gather(world, host),
            vdso_room: arena.end() + VDSO_GAP,
            same_kernel: release.trim() == world.machine.release,
            arena,
            built: BTreeMap::new(),
            refused,
            stand_ins: BTreeMap::new(),
            condemned: Vec::new(),
            shares: Shares::default(),
            executables: BTreeMap::new(),
            terminals: BTreeMap::new(),
            epolls: BTreeSet::new(),
            keyrings: Keyrings::default(),
            null: None,
        })
    }

    /// Opens everything a process refers to.
    pub fn prepare(&mut self, member: &Member) -> Restored<()> {
        let process = &member.record;
        if process.zombie {
            return Ok(());
        }
        if process.sid == process.tgid && !process.tty.is_empty() {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let name = || format!("terminal {}", String::from_utf8_lossy(&process.tty));
            let fd = rustix::fs::open(OsStr::from_bytes(&process.tty), flags, Mode::empty()).or_refuse(name)?;
            let high = High::raise(fd, self.objects.base())?;
            self.terminals.insert(process.tgid, high);
        }
        if self
            .world
            .spaces
            .get(&process.mm)
            .is_some_and(|space| !space.rings.is_empty())
            && self.null.is_none()
        {
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            self.null = Some(High::raise(null.or_refuse(|| "/dev/null")?, self.objects.base())?);
        }
        if let Some(table) = self.world.tables.get(&process.files) {
            for &(fd, id, _) in &table.descriptors {
                self.prepare_file(id)
                    .map_err(|refusal| Refusal::new(format!("fd {fd}"), refusal))?;
            }
        }
        if let Some(space) = self.world.spaces.get(&process.mm) {
            memory::check(space)?;
            for mapping in io_uring::mappings(space) {
                self.objects
                    .ensure(self.world, self.host, &self.elapsed, mapping.inode)?;
            }
            memory::prepare(space, &mut self.objects, self.world, self.host)?;
            if space.record.exe_inode == 0 && !self.executables.contains_key(&process.mm) {
                let name = || format!("executable {}", String::from_utf8_lossy(&space.record.exe));
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let path = OsStr::from_bytes(&space.record.exe);
                let fd = rustix::fs::open(path, flags, Mode::empty()).or_refuse(name)?;
                self.executables
                    .insert(process.mm, High::raise(fd, self.objects.base())?);
            }
        }
        Ok(())
    }

    fn prepare_file(&mut self, id: Id) -> Restored<()> {
        self.objects.ensure(self.world, self.host, &self.elapsed, id)?;
        let watches = match self.world.files.get(&id).map(|file| &file.what) {
            Some(shared_region::context::OpenFileKind::Epoll { watches }) => watches,
            _ => return Ok(()),
        };
        watches
            .iter()
            .filter(|watch| watch.file != id)
            .try_for_each(|watch| self.objects.ensure(self.world, self.host, &self.elapsed, watch.file))
    }

    /// Opens a file that nobody has but a message on its way, and returns its number.
    pub fn open_for_passing(&mut self, id: Id) -> Restored<u32> {
        let kind = self.world.files.get(&id).map(|file| &file.what);
        if matches!(kind, Some(shared_region::context::OpenFileKind::OfProcess { .. })) {
            return Err(Refusal::new("descriptor on its way", "it belongs to a process"));
        }
        self.prepare_file(id)?;
        let number = self.objects.number(id);
        number.ok_or_else(|| Refusal::new("descriptor on its way", "it was not opened"))
    }

    /// Builds every process of the tree.
    pub fn build_all(&mut self, tree: &Tree) {
        self.shares = meter::at(Part::Planning, || Shares::plan(self.world, tree));
        // Who enters a namespace comes when its first process may be there.
        let (late, early): (Vec<u32>, Vec<u32>) = tree.roots.iter().partition(|&&root| self.enters(tree, root));
        let mut roots: std::collections::VecDeque<u32> = early.into_iter().chain(late).collect();
        while let Some(root) = roots.pop_front() {
            let creator = tree.nodes.get(&root).map(|node| self.creator_of_root(node));
            if let Some(Ok(creator)) = creator {
                self.build(tree, root, creator, &mut roots);
            } else if let Some(Err(refusal)) = creator {
                self.refused.insert(root, refusal);
            }
        }
    }

    /// Whether a process or one that comes from it enters a pid namespace.
    fn enters(&self, tree: &Tree, id: u32) -> bool {
        let mut family = vec![id];
        let mut at = 0;
        while let Some(&id) = family.get(at) {
            let Some(node) = tree.nodes.get(&id) else { break };
            if self.world.enters(id, node.parent) {
                return true;
            }
            family.extend(&node.children);
            at += 1;
        }
        false
    }

    fn creator_of_root(&mut self, node: &Node) -> Restored<Creator> {
        let Some(session) = node.born_in else {
            return Ok(Creator::Agent);
        };
        if self.built.contains_key(&session) {
            return Ok(Creator::Session(session));
        }
        if !self.stand_ins.contains_key(&session) {
            let stand_in = self.create(session, 0, Creator::Agent)?;
            let mut batch = Batch::new(&mut self.arena, &stand_in);
            batch.call("session", libc::SYS_setsid, [])?;
            batch.finish()?;
            self.stand_ins.insert(session, stand_in);
        }
        Ok(Creator::StandIn(session))
    }

    /// Builds a process and its children. The children of one that fails come to `roots`.
    fn build(&mut self, tree: &Tree, id: u32, creator: Creator, roots: &mut std::collections::VecDeque<u32>) {
        let (Some(node), Some(member)) = (tree.nodes.get(&id), self.world.processes.get(&id)) else {
            return;
        };
        if let Err(refusal) = self.bear(id, member, node, creator) {
            self.refuse(id, refusal);
            roots.extend(&node.children);
            return;
        }
        if !self.built.contains_key(&id) {
            return;
        }
        let (early, late): (Vec<u32>, Vec<u32>) = node.children.iter().partition(|child| {
            let wanted = tree.nodes.get(child).and_then(|child| child.born_in);
            node.leads_session && wanted.is_some_and(|session| session != id)
        });
        for child in early {
            self.build(tree, child, Creator::Parent(id), roots);
        }
        if node.leads_session {
            if let Err(refusal) = self.lead_session(id) {
                self.refuse(id, refusal);
                roots.extend(&late);
                return;
            }
        }
        for child in late {
            self.build(tree, child, Creator::Parent(id), roots);
        }
        self.bury_refused_children(id);
        if let Err(refusal) = self.furnish(id, member) {
            self.refuse(id, refusal);
        }
        fail_at::here(FailAt::Built);
    }

    /// Creates a process and gives it empty memory and its descriptors; a zombie dies at once.
    fn bear(&mut self, id: u32, member: &Member, node: &Node, creator: Creator) -> Restored<()> {
        let process = &member.record;
        let tracee = self.create(id, process.exit_signal, creator)?;
        if self.world.own_number(id) == pid_namespaces::FIRST_PROCESS {
            pid_namespaces::keep_free(&self.objects.namespaces, self.world, id)?;
        }
        if process.zombie {
            return tracee.end(&mut self.arena, process.exit_status);
        }
        let session = node.born_in.unwrap_or(0);
        self.built.insert(id, Built::new(tracee, session));
        let (Some(built), Some(space), Some(table)) = (
            self.built.get(&id),
            self.world.spaces.get(&process.mm),
            self.world.tables.get(&process.files),
        ) else {
            return Err(Refusal::new("records", "address space or file table is missing"));
        };
        let leader = built.leader()?;
        let share = match creator {
            Creator::Parent(_) => self.shares.of(id).cloned().unwrap_or_default(),
            _ => Share::default(),
        };
        let stale = match creator {
            Creator::Parent(parent) => stale_pages(&share, &self.shares.before_fork(parent)),
            _ => Vec::new(),
        };
        let exe = if share.kept.is_empty() {
            memory::Exe::Opened(self.executables.get(&process.mm).map_or(u32::MAX, High::number))
        } else {
            memory::Exe::Inherited
        };
        let way = vdso::decide(
            space,
            &member.threads,
            &self.vdso,
            &self.old_vdso,
            self.same_kernel,
            self.vdso_room,
        )?;
        let (rseq, length, signature) = sys::rseq(leader.tid()).unwrap_or_default();
        let arena = (self.arena.base(), self.arena.end());
        let mut batch = Batch::new(&mut self.arena, leader);
        let mounts = &self.objects.mount_namespaces;
        mounts.enter(self.world, &mut batch, id, leader.tid())?;
        self.objects
            .namespaces
            .enter_first(self.world, &mut batch, id, leader.tid())?;
        if rseq != 0 {
            let arguments = [rseq.into(), length.into(), RSEQ_UNREGISTER.into(), signature.into()];
            batch.call("rseq of the agent", libc::SYS_rseq, arguments)?;
        }
        batch.call("thread", libc::SYS_set_tid_address, [0u64.into()])?;
        memory::clear(&mut batch, arena, &share.kept)?;
        memory::adapt(&mut batch, space, &share.kept, &stale)?;
        let taken: Vec<(u64, u64)> = share.kept.iter().copied().chain([arena]).collect();
        io_uring::map(&mut batch, space, &self.objects, &taken)?;
        vdso::map(&mut batch, &way, space)?;
        // Before the mappings: an executable that is mapped cannot be replaced, not even by itself.
        memory::bounds(&mut batch, space, &mut self.objects, self.world, self.host, exe)?;
        memory::map(&mut batch, space, &mut self.objects, self.world, self.host, &share.kept)?;
        descriptors::clear(&mut batch, &self.objects)?;
        descriptors::watch(&mut batch, table, self.world, &self.objects, &mut self.epolls)?;
        descriptors::place(&mut batch, table, &self.objects)?;
        batch.finish()?;
        vdso::complete(&way, leader, space, &member.threads, &self.vdso, self.host)?;
        self.adopt_early(id, share)
    }

    /// Pages that children will inherit.
    fn adopt_early(&mut self, id: u32, share: Share) -> Restored<()> {
        let Some(built) = self.built.get_mut(&id) else {
            return Ok(());
        };
        built.has = share.inherited;
        let early = self.shares.of(id).map(|share| share.early.clone()).unwrap_or_default();
        // Without the parent it was planned with, it adopts what it would have inherited.
        let early: Vec<Page> = early.into_iter().filter(|page| built.has.insert(page.va)).collect();
        let runs = self.shares.runs(early.into_iter());
        adopt(self.host, id, built, &runs)
    }

    fn lead_session(&mut self, id: u32) -> Restored<()> {
        let Some(built) = self.built.get_mut(&id) else {
            return Ok(());
        };
        let mut batch = Batch::new(&mut self.arena, built.leader()?);
        let number = self.world.own_number(id);
        batch.expect(
            "session",
            libc::SYS_setsid,
            [],
            super::batch::Expect::Value(number.into()),
        )?;
        if let Some(terminal) = self.terminals.get(&id) {
            let arguments = [terminal.number().into(), libc::TIOCSCTTY.into(), 0u64.into()];
            batch.call("controlling terminal", libc::SYS_ioctl, arguments)?;
        }
        batch.finish()?;
        built.session = id;
        Ok(())
    }

    /// Fills the memory and makes the other threads. No child is forked after this.
    fn furnish(&mut self, id: u32, member: &Member) -> Restored<()> {
        let (Some(built), Some(space)) = (self.built.get_mut(&id), self.world.spaces.get(&member.record.mm)) else {
            return Ok(());
        };
        if space.record.thp_disable {
            let mut batch = Batch::new(&mut self.arena, built.leader()?);
            memory::without_huge_pages(&mut batch, true)?;
            batch.finish()?;
        }
        if self.shares.is_empty() {
            let pieces: Vec<&[u8]> = memory::contents(space).collect();
            hand_over(self.host, id, built, space, &pieces)?;
        } else {
            let late = cow::every_page(space).filter(|page| !built.has.contains(&page.va));
            let runs = self.shares.runs(late);
            hand_over(self.host, id, built, space, &[&runs])?;
        }
        for ring in &space.rings {
            let null = self.null.as_ref().map_or(u32::MAX, High::number);
            aio::make(&mut self.arena, built.leader()?, ring, null)?;
        }
        for &(address, bytes) in &space.bytes {
            UserMemory::of(id)?.write(address, bytes)?;
        }
        let from_swap = self.world.read_from_swap(member.record.mm)?;
        if !from_swap.is_empty() {
            memory::write(&mut self.arena, built.leader()?, from_swap, space.record.thp_disable)?;
        }
        let mut batch = Batch::new(&mut self.arena, built.leader()?);
        memory::lock(&mut batch, space)?;
        batch.finish()?;
        self.keyrings.join(
            &mut self.arena,
            built.leader()?,
            member.record.session_keyring,
            self.world,
            namespaces::user_namespace(self.world, member)?.is_some(),
        )?;
        let mut batch = Batch::new(&mut self.arena, built.leader()?);
        let confined = self
            .objects
            .namespaces
            .enter_user(self.world, &mut batch, member, built.leader()?.tid())?;
        descriptors::drop_inherited(&mut batch, &self.objects)?;
        batch.finish()?;
        for thread in member.threads.iter().skip(1) {
            let leader = built.leader()?;
            let tracee = match confined {
                true => clone_as_next(&mut self.arena, leader, thread.tid, THREAD, 0)?,
                false => clone(&mut self.arena, leader, &self.world.numbers(thread.tid), THREAD, 0)?,
            };
            built.threads.push(tracee);
        }
        Ok(())
    }

    /// Gives keyrings back to their owners, once nobody joins any more. Who has one that fails is refused.
    pub fn seal_keyrings(&mut self) {
        for (keyring, refusal) in self.keyrings.seal(&mut self.arena, self.world) {
            let has_it = |id: &u32| {
                let member = self.world.processes.get(id);
                member.is_some_and(|member| member.record.session_keyring == keyring)
            };
            let holders: Vec<u32> = self.built.keys().copied().filter(has_it).collect();
            for holder in holders {
                self.refuse(holder, refusal.clone());
            }
        }
    }

    /// A child that is refused is seen by its parent as killed, so that nobody waits for it for ever.
    fn bury_refused_children(&mut self, id: u32) {
        let dead: Vec<u32> = self
            .refused
            .keys()
            .copied()
            .filter(|child| {
                let member = self.world.processes.get(child);
                member.is_some_and(|member| member.record.ppid == id)
            })
            .collect();
        for child in dead {
            if let Some(built) = self.built.get_mut(&id) {
                built.bereaved = true;
                built
                    .remarks
                    .push(format!("child {child} is not restored; it is seen as killed"));
            }
            if self.condemned.iter().any(|built| built.id() == Some(child)) {
                continue;
            }
            let grave = self
                .create(child, libc::SIGCHLD as u32, Creator::Parent(id))
                .and_then(|tracee| tracee.end(&mut self.arena, KILLED));
            if let (Ok(()), Some(built)) = (grave, self.built.get_mut(&id)) {
                built.bereaved = true;
                built
                    .remarks
                    .push(format!("child {child} is not restored; it is seen as killed"));
            }
        }
    }

    /// Gives a process up. What is built of it stays until processes run: others may still need copies of frames that it
    /// adopted, and another successor the frames themselves.
    pub fn refuse(&mut self, id: u32, refusal: Refusal) {
        for other in self.world.dependents(id) {
            if let Some(built) = self.built.remove(&other) {
                self.condemned.push(built);
                let why = "its first process is not restored";
                self.refused.insert(other, Refusal::new("pid namespace", why));
            }
        }
        self.condemned.extend(self.built.remove(&id));
        self.refused.insert(id, refusal);
    }

    /// Gives up every process that has an open file of which `is_it` says so.
    pub fn refuse_holders(&mut self, is_it: impl Fn(Id, &OpenFile) -> bool, refusal: &Refusal) {
        let holders = self.world.holders(is_it).map(|(id, _)| id);
        let holders: Vec<u32> = holders.filter(|id| self.built.contains_key(id)).collect();
        for holder in holders {
            self.refuse(holder, refusal.clone());
        }
    }

    fn create(&mut self, id: u32, exit_signal: u32, creator: Creator) -> Restored<Tracee> {
        let bearer = match creator {
            Creator::Agent => 0,
            Creator::Parent(id) | Creator::StandIn(id) | Creator::Session(id) => id,
        };
        let birth = self.world.birth(id, bearer)?;
        if let Birth::Within(first) = birth {
            if !self.built.contains_key(&first) {
                return Err(Refusal::new("pid namespace", "its first process is not there"));
            }
        }
        let numbers = self.world.numbers(id);
        match creator {
            Creator::Agent => meter::at(Part::Cloning, || self.spawn(&numbers, birth, exit_signal)),
            Creator::Parent(parent) => {
                let parent = Tracee::borrowed(leader_of(&self.built, parent)?);
                self.bring_forth(&parent, birth, &numbers, 0, exit_signal)
            }
            Creator::StandIn(session) => {
                let stand_in = self
                    .stand_ins
                    .get(&session)
                    .map(|stand_in| Tracee::borrowed(stand_in.tid()));
                let stand_in = stand_in.ok_or_else(|| Refusal::new("session", "its stand-in is gone"))?;
                self.bring_forth(&stand_in, birth, &numbers, libc::CLONE_PARENT, 0)
            }
            Creator::Session(session) => {
                let leader = Tracee::borrowed(leader_of(&self.built, session)?);
                let between = clone(&mut self.arena, &leader, &[], 0, 0)?;
                let wanted = self.bring_forth(&between, birth, &numbers, 0, exit_signal);
                dismiss(&mut self.arena, between, Some(&leader))?;
                wanted
            }
        }
    }

    /// A child of the agent.
    fn spawn(&self, numbers: &[Tid], birth: Birth, exit_signal: u32) -> Restored<Tracee> {
        let id = numbers.last().copied().unwrap_or(0);
        let spawn = |flags| {
            sys::spawn_paused_as(numbers, flags, exit_signal).map_err(|error| taken(id, error))?;
            Tracee::seize(id)
        };
        match birth {
            Birth::Here => spawn(0),
            Birth::First => spawn(libc::CLONE_NEWPID),
            Birth::Within(first) => {
                let path = format!("/proc/{first}/ns/pid");
                let entrance = std::fs::File::open(&path).or_refuse(|| path)?;
                let namespaces = &self.objects.namespaces;
                namespaces.inside_of(Visited::Processes, &entrance, || spawn(0))
            }
        }
    }

    /// A child of a process under construction, or its sibling.
    fn bring_forth(
        &mut self,
        creator: &Tracee,
        birth: Birth,
        numbers: &[Tid],
        flags: i32,
        exit_signal: u32,
    ) -> Restored<Tracee> {
        let arena = &mut self.arena;
        match birth {
            Birth::Here => clone(arena, creator, numbers, flags, exit_signal),
            Birth::First => clone(arena, creator, numbers, flags | libc::CLONE_NEWPID, exit_signal),
            Birth::Within(first) => {
                let seen = |id| pid_namespaces::seen_now(creator.tid(), id).map(|number| number as u32);
                let (first, own) = (seen(first as Tid)?, seen(creator.tid())?);
                pid_namespaces::enter(arena, creator, first)?;
                let born = clone(arena, creator, numbers, flags, exit_signal);
                pid_namespaces::enter(arena, creator, own)?;
                born
            }
        }
    }
}

fn leader_of(built: &BTreeMap<u32, Built>, id: u32) -> Restored<Tid> {
    let built = built.get(&id).ok_or_else(|| Refusal::new("parent", "it is gone"))?;
    Ok(built.leader()?.tid())
}

/// The rest of a process's memory. If it is much, the process need not wait for it.
///
/// What others own as well is copied now: the owner may change it as soon as it runs. And so are pages of private file
/// mappings handed over now: anybody who cuts the file short takes them away, and could not take what is not there yet.
fn hand_over(host: &dyn Host, id: u32, built: &mut Built, space: &Space<'_>, pieces: &[&[u8]]) -> Restored<()> {
    let runs = || pieces.iter().flat_map(|piece| FrameRun::iter(piece));
    let files = memory::file_ranges(space);
    let can_wait = |run: &FrameRun| {
        let own = matches!(run.kind(), frame_kind::OWN | frame_kind::HUGE);
        own && !memory::overlaps(&files, run.va, run.va + run.pages() * PAGE_SIZE)
    };
    let waiting: u64 = runs().filter(can_wait).map(FrameRun::pages).sum();
    if waiting >= LAZY_PAGES {
        let (lazy, rest): (Vec<FrameRun>, Vec<FrameRun>) = runs().partition(can_wait);
        let payload = |runs: Vec<FrameRun>| -> Vec<u8> { runs.into_iter().flat_map(FrameRun::to_bytes).collect() };
        let begun = meter::at(Part::Adoption, || host.adopt_lazily(id, &payload(lazy)));
        if let Some(pages) = begun {
            built.adopted += pages;
            built.lazy = true;
            return adopt(host, id, built, &payload(rest));
        }
    }
    pieces.iter().try_for_each(|piece| adopt(host, id, built, piece))
}

fn adopt(host: &dyn Host, id: u32, built: &mut Built, runs: &[u8]) -> Restored<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let adopted = meter::at(Part::Adoption, || host.adopt(id, runs))?;
    built.adopted += adopted.in_place;
    built.copied += adopted.copied;
    Ok(())
}

/// What a child finds in the kept parts and did not have from its parent.
fn stale_pages(share: &Share, parents: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let in_kept = |va: &u64| share.kept.iter().any(|&(start, end)| (start..end).contains(va));
    cow::ranges(parents.difference(&share.inherited).copied().filter(in_kept))
}

/// Ends a helper process. If a process under construction is its parent, that process collects it.
pub fn dismiss(arena: &mut Arena, helper: Tracee, parent: Option<&Tracee>) -> Restored<()> {
    let number = parent.map(|parent| pid_namespaces::seen_now(parent.tid(), helper.tid()));
    Built::new(helper, 0).kill();
    let (Some(parent), Some(number)) = (parent, number) else {
        return Ok(());
    };
    let mut batch = Batch::new(arena, parent);
    let arguments = [number?.into(), 0u64.into(), libc::__WALL.into(), 0u64.into()];
    batch.call("helper process", libc::SYS_wait4, arguments)?;
    batch.finish()
}

/// Lets a tracee create a process or thread with these ids, from the innermost pid namespace out to the agent's, or any ids if
/// there are none.
pub fn clone(arena: &mut Arena, creator: &Tracee, ids: &[Tid], flags: i32, exit_signal: u32) -> Restored<Tracee> {
    arena.clear();
    let set_tid = arena.put(ids.as_bytes());
    let arguments = CloneArgs {
        flags: flags as u32 as u64,
        exit_signal: exit_signal.into(),
        set_tid: if ids.is_empty() { 0 } else { set_tid },
        set_tid_size: ids.len() as u64,
        ..CloneArgs::default()
    };
    let address = arena.put(arguments.as_bytes());
    arena.push([
        libc::SYS_clone3 as u64,
        address,
        size_of::<CloneArgs>() as u64,
        0,
        0,
        0,
        0,
        0,
    ]);
    let wanted = ids.last().copied().unwrap_or(0);
    let child = meter::at(Part::Cloning, || creator.run_clone(arena)).map_err(|refusal| taken(wanted, refusal.why))?;
    if wanted != 0 && child.tid() != wanted {
        return Err(Refusal::new(
            format!("id {wanted}"),
            format!("the kernel gave {}", child.tid()),
        ));
    }
    Ok(child)
}

/// As [`clone`], for a creator in a user namespace, which may not choose ids: the one wanted is made the next.
fn clone_as_next(arena: &mut Arena, creator: &Tracee, id: u32, flags: i32, exit_signal: u32) -> Restored<Tracee> {
    let before = pids::last().or_refuse(|| pids::LAST)?;
    let mut made = Err(taken(id as Tid, "another process is given it"));
    for _ in 0..ATTEMPTS {
        pids::set_last(id.saturating_sub(1)).or_refuse(|| pids::LAST)?;
        let born = clone(arena, creator, &[], flags, exit_signal)?;
        if born.tid() == id as Tid {
            made = Ok(born);
            break;
        }
        // A thread of the kernel was faster.
        born.leave(arena)?;
    }
    pids::set_last(before).or_refuse(|| pids::LAST)?;
    made
}

fn taken(id: Tid, error: impl std::fmt::Display) -> Refusal {
    Refusal::new(format!("id {id}"), error)
}
