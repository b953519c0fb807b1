//! The journal of a mounted ext4 (`fs/jbd2`, `include/linux/jbd2.h`): what its transactions hold that is not in the log.
//!
//! A transaction that takes changes (running) can be committed by somebody else when no handle is open on it
//! (`t_updates`): jbd2 itself asks for nothing more before it commits (`jbd2_journal_wait_updates`). Its blocks are those on
//! `t_buffers`, and those that still belong to the transaction before (committing), are to be its own next
//! (`b_next_transaction`) and have been changed since (`b_modified`; `__jbd2_journal_refile_buffer`). Blocks on
//! `t_reserved_list` were not changed, those on its `t_forget` are not to be written any more.
//!
//! Of the committing transaction all blocks matter until its commit block is on the disk, whatever list they have come to:
//! `t_buffers` (to be written), `t_shadow_list` (being written), `t_forget` with `BH_JBDDirty` (written; without, it was
//! freed). Whether it is on the disk only the disk knows. Where the running transaction has changed a block since, the
//! block as it was is in `b_frozen_data`, unless it had been written to the log before the change: then it is nowhere in
//! memory, and the two can be committed only as one.
//!
//! With `data=journal`, blocks of files are blocks of transactions like any other.
//!
//! Revoked blocks of the running transaction stand in the current table, those of the committing one in the other, from
//! which they go as they are put into blocks of the log; these are in the device's page cache.

use crate::addr::{Kva, PhysAddr, PAGE_SHIFT, PAGE_SIZE};
use crate::context::Context;
use crate::ext4;
use crate::ext4_table::{Parts, Table};
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::orc::{frames, Unwind};
use crate::overview;
use crate::page_cache::buffer_at;
use crate::refusal::{Refusal, Result};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use shared_region::context::{
    Checkpoint, IdleJournal, Journal as Record, JournalBlock, LoggedFileSystem, RevokedBlock,
};
use shared_region::reasons;
use shared_region::rescue_area::NOBODY;

/// Lists a block can be on (`BJ_*`, `include/linux/jbd2.h`).
const METADATA: u64 = 1;
const FORGET: u64 = 2;
const SHADOW: u64 = 3;
/// `JBD2_ABORT` and `JBD2_FAST_COMMIT_ONGOING`.
const ABORT: u64 = 2;
const FAST_COMMIT_ONGOING: u64 = 0x100;
/// `JBD2_FEATURE_INCOMPAT_*`: revoke, 64bit and csum_v3, which the agent can write.
const WRITABLE: u32 = 0x1 | 0x2 | 0x10;
/// `JBD2_MAGIC_NUMBER`, as it stands in a block.
const MAGIC: [u8; 4] = 0xC03B_3998u32.to_be_bytes();
/// `h_blocktype` of a descriptor, of a commit block and of a block with revoked numbers.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
/// Blocks that a transaction can have; a journal of the largest size takes a quarter of its blocks.
const MAX_BLOCKS: usize = 1 << 17;
/// Chains of a table of revoked blocks (`JOURNAL_REVOKE_DEFAULT_HASH` is 256).
const MAX_CHAINS: u64 = 1 << 16;
/// File systems that are looked at while the kernel may still run.
const MAX_MOUNTED: u64 = 256;
/// Threads that are named, and functions of each.
const MAX_HOLDERS: usize = 4;
const MAX_FRAMES: usize = 7;
/// Bytes of a journal's superblock that are kept.
const SUPERBLOCK: usize = 80;

crate::mirrors! {
    /// A journal.
    #[allow(missing_docs)]
    pub struct Journal = "journal_s" {
        j_flags: Field,
        j_errno: Field,
        j_superblock: Field,
        j_state_lock: Field,
        j_list_lock: Field,
        j_revoke_lock: Field,
        j_running_transaction: Field,
        j_committing_transaction: Field,
        j_checkpoint_transactions: Field,
        j_first: Field,
        j_last: Field,
        j_inode: Field,
        j_dev: Field,
        j_fs_dev: Field,
        j_blocksize: Field,
        j_commit_sequence: Field,
        j_tail_sequence: Field,
        j_revoke: Field,
        j_revoke_table: Field,
    }

    /// A transaction.
    #[allow(missing_docs)]
    pub struct Transaction = "transaction_s" {
        t_journal: Field,
        t_tid: Field,
        t_state: Field,
        t_log_start: Field,
        t_buffers: Field,
        t_forget: Field,
        t_shadow_list: Field,
        t_checkpoint_list: Field,
        t_cpnext: Field,
        t_updates: Field = "t_updates.counter",
        t_outstanding_revokes: Field = "t_outstanding_revokes.counter",
    }

    /// An operation that is under way.
    #[allow(missing_docs)]
    pub struct Handle = "jbd2_journal_handle" {
        h_transaction: Field,
    }

    /// A block that belongs to a transaction.
    #[allow(missing_docs)]
    pub struct JournalHead = "journal_head" {
        b_bh: Field,
        b_jlist: Field,
        b_modified: Field,
        b_frozen_data: Field,
        b_transaction: Field,
        b_next_transaction: Field,
        b_tnext: Field,
        b_tprev: Field,
        b_cp_transaction: Field,
        b_cpnext: Field,
        b_triggers: Field,
    }

    /// A table of revoked blocks.
    #[allow(missing_docs)]
    pub struct RevokeTable = "jbd2_revoke_table_s" {
        hash_size: Field,
        hash_table: Field,
    }

    /// A revoked block.
    #[allow(missing_docs)]
    pub struct RevokeRecord = "jbd2_revoke_record_s" {
        hash: Field,
        blocknr: Field,
    }
}

crate::constants! {
    /// `transaction_t.t_state`.
    pub struct States {
        /// Takes changes.
        running: Option<u32> = "T_RUNNING",
        /// Takes no more handles.
        locked: Option<u32> = "T_LOCKED",
        /// Its revoked blocks are moving to the other table.
        switch: Option<u32> = "T_SWITCH",
        /// Its data and revoked blocks are being written.
        flush: Option<u32> = "T_FLUSH",
        /// Its blocks are being written.
        commit: Option<u32> = "T_COMMIT",
        /// It is committed.
        callback: Option<u32> = "T_COMMIT_CALLBACK",
    }

    /// Bits of `buffer_head.b_state` that jbd2 has added.
    pub struct BufferStatesOfJournal {
        /// Has to be written, by way of the journal.
        jbddirty: Option<u32> = "BH_JBDDirty",
        /// The running transaction has freed it.
        freed: Option<u32> = "BH_Freed",
        /// `b_private` is its `journal_head`.
        journalled: Option<u32> = "BH_JBD",
    }
}

/// All that a walk needs.
struct Walk<'c, 'k, 'm, M: PhysMem + ?Sized> {
    context: &'c Context<'k, 'm, M>,
    own: &'c Journal,
    transaction: &'c Transaction,
    head: &'c JournalHead,
    table: &'c RevokeTable,
    revoked: &'c RevokeRecord,
    superblock: Kva,
    parts: Option<Parts>,
    journal: Kva,
    block_size: u64,
    device: Kva,
}

/// What the journal of a mounted ext4 holds that the disk does not know. `None` if that is nothing.
///
/// # Errors
/// It cannot be read, or makes no sense.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Option<Record>> {
    let Some(walk) = Walk::of(context, superblock)? else {
        return Ok(None);
    };
    let mem = &context.kernel.mem;
    let (journal, own) = (walk.journal, walk.own);
    let (running, committing) = (
        mem.ptr(journal, own.j_running_transaction)?,
        mem.ptr(journal, own.j_committing_transaction)?,
    );
    let is_empty = running.is_null() && committing.is_null();
    // Data that goes through the log may have spoilt what is committed, and an error leaves nothing in any transaction.
    if is_empty && !journals_data(context, superblock)? && !is_given_up(context, journal, own)? {
        return Ok(None);
    }
    let mut record = Record {
        block_size: walk.block_size as u32,
        superblock: mem.bytes(mem.ptr(journal, own.j_superblock)?, SUPERBLOCK)?,
        committing: walk.named(committing)?,
        running: walk.named(running)?,
        ..named(context, superblock)?
    };
    if let Err(why) = walk.check(&mut record) {
        record.refused = why.to_string();
        return Ok(Some(record));
    }
    if let Err(why) = walk.check_running(running) {
        record.running_refused = why.to_string();
    }
    if let Err(why) = walk.gather([running, committing], &mut record) {
        record.blocks.clear();
        record.revoked.clear();
        record.refused = why.to_string();
    }
    Ok(Some(record))
}

/// Blocks of committed transactions that were not written to their places yet, as they are in memory, of a file system whose data
/// goes through the journal; where the running transaction will not be brought into the log (`journal`), those of both transactions
/// as well. `None` if its data does not go there, or not all of them are known.
pub fn waiting<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    superblock: Kva,
    journal: Option<&Record>,
) -> Option<Checkpoint> {
    journals_data(context, superblock).ok()?.then_some(())?;
    let walk = Walk::of(context, superblock).ok()??;
    let mut blocks = walk.checkpoint().ok()?;
    if journal.is_some_and(|journal| !journal.running_refused.is_empty()) {
        blocks.extend(walk.uncommitted().ok()?);
    }
    let device = named(context, superblock).ok()?.device;
    Some(Checkpoint { device, blocks })
}

fn journals_data<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<bool> {
    Ok(ext4::data_options(context, superblock)? == b"data=journal")
}

/// The journal of a mounted ext4 that nobody will complete.
///
/// # Errors
/// The superblock cannot be read.
pub fn left_alone<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Record> {
    Ok(Record {
        refused: NOBODY.into(),
        ..named(context, superblock)?
    })
}

/// A mounted ext4 whose journal has nothing to complete.
///
/// # Errors
/// The superblock cannot be read.
pub fn idle<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<IdleJournal> {
    let Record { uuid, device, name, .. } = named(context, superblock)?;
    Ok(IdleJournal { uuid, device, name })
}

/// A mounted XFS.
///
/// # Errors
/// The superblock cannot be read.
pub fn logged<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<LoggedFileSystem> {
    let Record { uuid, device, name, .. } = named(context, superblock)?;
    Ok(LoggedFileSystem { uuid, device, name })
}

/// Which file system it is.
fn named<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Record> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let uuid = superblock.offset(u64::from(layouts.super_block.s_uuid.offset));
    Ok(Record {
        uuid: mem.array::<16>(uuid)?,
        device: mem.uint(superblock, layouts.super_block.s_dev)?,
        name: String::from_utf8_lossy(&mem.text(superblock, layouts.super_block.s_id)?).into_owned(),
        ..Record::default()
    })
}

/// Whether a block belongs to a transaction that is not committed. What cannot be read does.
pub fn is_uncommitted<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, buffer: Kva) -> bool {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let (Some(head), Some(bit)) = (&layouts.journal_head, layouts.journal_buffer_states.journalled) else {
        return true;
    };
    let belongs = || -> Result<bool> {
        if mem.uint(buffer, layouts.buffer_head.b_state)? & 1u64.wrapping_shl(bit) == 0 {
            return Ok(false);
        }
        let jh = mem.ptr(buffer, layouts.buffer_head.b_private)?;
        Ok(!mem.ptr(jh, head.b_transaction)?.is_null() || !mem.ptr(jh, head.b_next_transaction)?.is_null())
    };
    belongs().unwrap_or(true)
}

/// Operations under way on all mounted ext4 together, while the kernel may still run. What cannot be read has none.
pub fn operations_under_way<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>) -> u64 {
    let layouts = &kernel.types.layouts;
    let globals = &kernel.prepared.globals;
    let (Some(mounted), Some(own), Some(transaction)) = (&layouts.ext4_super, &layouts.journal, &layouts.transaction)
    else {
        return 0;
    };
    let (Some(all), Some(ext4)) = (globals.super_blocks, globals.ext4_sops) else {
        return 0;
    };
    let of_one = |superblock: Kva| {
        let mem = &kernel.mem;
        if mem.ptr(superblock, layouts.super_block.s_op).ok()? != ext4 {
            return None;
        }
        let info = mem.ptr(superblock, layouts.super_block.s_fs_info).ok()?;
        let journal = mem.ptr(info, mounted.s_journal).ok().filter(|at| !at.is_null())?;
        let running = mem.ptr(journal, own.j_running_transaction).ok()?;
        (!running.is_null()).then_some(())?;
        mem.uint(running, transaction.t_updates).ok()
    };
    let list = kernel.list(all, layouts.super_block.s_list).bounded(MAX_MOUNTED);
    let counts = list.flatten().filter_map(of_one);
    counts.fold(0, u64::saturating_add)
}

fn refuse(why: impl Into<String>) -> Refusal {
    Refusal::new(reasons::UNREADABLE, why)
}

/// Whether the dead kernel had given a journal up after an error.
fn is_given_up<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, journal: Kva, own: &Journal) -> Result<bool> {
    let mem = &context.kernel.mem;
    let flags = mem.uint(journal, own.j_flags)?;
    Ok(flags & ABORT != 0 || mem.int(journal, own.j_errno)? != 0)
}

/// The number of the last transaction that is known to be committed.
///
/// # Errors
/// It cannot be read.
pub fn committed<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, journal: Kva, own: &Journal) -> Result<u32> {
    let mem = &context.kernel.mem;
    Ok(match is_given_up(context, journal, own)? {
        // What was given up counts as committed there; of those in the log it is not known.
        true => (mem.uint(journal, own.j_tail_sequence)? as u32).wrapping_sub(1),
        false => mem.uint(journal, own.j_commit_sequence)? as u32,
    })
}

/// The members of a list that ends where it begins.
fn ring(first: Kva, next: impl Fn(Kva) -> Result<Kva>) -> Result<Vec<Kva>> {
    let (mut all, mut at) = (Vec::new(), first);
    while !at.is_null() {
        if all.len() >= MAX_BLOCKS {
            return Err(refuse("a list of blocks without end"));
        }
        all.push(at);
        at = next(at)?;
        if at == first {
            break;
        }
    }
    Ok(all)
}

impl<'c, 'k, 'm, M: PhysMem + ?Sized> Walk<'c, 'k, 'm, M> {
    /// `None` if it has no journal, or this kernel's journals are not known.
    fn of(context: &'c Context<'k, 'm, M>, superblock: Kva) -> Result<Option<Self>> {
        let layouts = &context.kernel.types.layouts;
        let (Some(own), Some(transaction), Some(head), Some(table), Some(revoked)) = (
            &layouts.journal,
            &layouts.transaction,
            &layouts.journal_head,
            &layouts.revoke_table,
            &layouts.revoke_record,
        ) else {
            return Ok(None);
        };
        let journal = ext4::journal(context, superblock)?;
        if journal.is_null() {
            return Ok(None);
        }
        let mem = &context.kernel.mem;
        Ok(Some(Self {
            context,
            own,
            transaction,
            head,
            table,
            revoked,
            superblock,
            parts: Table::of(context, superblock)?.map(|table| table.parts(context)),
            journal,
            block_size: mem.uint(journal, own.j_blocksize)?,
            device: mem.ptr(journal, own.j_fs_dev)?,
        }))
    }

    /// Number and state of a transaction.
    fn named(&self, transaction: Kva) -> Result<Option<(u32, u32)>> {
        if transaction.is_null() {
            return Ok(None);
        }
        let mem = &self.context.kernel.mem;
        let tid = mem.uint(transaction, self.transaction.t_tid)?;
        let state = mem.uint(transaction, self.transaction.t_state)?;
        if mem.ptr(transaction, self.transaction.t_journal)? != self.journal {
            return Err(refuse("a transaction of another journal"));
        }
        Ok(Some((tid as u32, state as u32)))
    }

    /// What must hold for anything to be written.
    fn check(&self, record: &mut Record) -> Result<()> {
        let layouts = &self.context.kernel.types.layouts;
        let mem = &self.context.kernel.mem;
        let flags = mem.uint(self.journal, self.own.j_flags)?;
        let word = |at: usize| {
            let bytes = record.superblock.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        if is_given_up(self.context, self.journal, self.own)? {
            return Err(refuse("its journal was given up after an error"));
        }
        if flags & FAST_COMMIT_ONGOING != 0 || word(40) & !WRITABLE != 0 || word(36) != 0 {
            return Err(refuse("its journal has features that are not known here"));
        }
        if !(1024..=PAGE_SIZE).contains(&self.block_size) || !self.block_size.is_power_of_two() {
            return Err(refuse("its blocks are of another size"));
        }
        if record.uuid == [0; 16] {
            return Err(refuse("it has no UUID"));
        }
        let inode = mem.ptr(self.journal, self.own.j_inode)?;
        if inode.is_null() || mem.ptr(self.journal, self.own.j_dev)? != self.device {
            return Err(refuse("its journal is on another device"));
        }
        if self.device != mem.ptr(self.superblock, layouts.super_block.s_bdev)? {
            return Err(refuse("its journal is of another file system"));
        }
        record.inode = ext4::block_map(self.context, inode)?;
        let low = |field: Field, bits: u64| mem.uint(self.journal, field).map(|word| word & bits);
        let written = low(self.own.j_state_lock, 0xFF)?;
        if written != 0 || low(self.own.j_list_lock, u64::MAX)? != 0 || low(self.own.j_revoke_lock, u64::MAX)? != 0 {
            return Err(refuse("its lists were being changed"));
        }
        Ok(())
    }

    /// What must hold for the running transaction to be whole.
    fn check_running(&self, running: Kva) -> Result<()> {
        let mem = &self.context.kernel.mem;
        if running.is_null() {
            return Ok(());
        }
        let open = mem.uint(running, self.transaction.t_updates)?;
        if open != 0 {
            let holders = self.holders(running).join(", ");
            return Err(Refusal::new(
                reasons::UNCOMMITTED,
                alloc::format!("{open} operations were under way ({holders})"),
            ));
        }
        let states = &self.context.kernel.types.layouts.transaction_states;
        let state = mem.uint(running, self.transaction.t_state)?;
        match states.flush {
            Some(flush) if state < u64::from(flush) => Ok(()),
            _ => Err(refuse("a running transaction in the state of one that is not")),
        }
    }

    /// Who has handles open on a transaction, in words.
    fn holders(&self, transaction: Kva) -> Vec<String> {
        let kernel = self.context.kernel;
        let layouts = &kernel.types.layouts;
        let threads = overview::processes(kernel, |_| {})
            .into_iter()
            .flat_map(|it| it.threads);
        let holds = |thread: &overview::Thread| {
            let handle = kernel.mem.ptr(thread.task, layouts.task.journal_info).ok()?;
            let of = layouts.handle.as_ref().filter(|_| !handle.is_null())?.h_transaction;
            (kernel.mem.ptr(handle, of).ok()? == transaction).then_some(())
        };
        let found = threads.filter(|thread| holds(thread).is_some()).take(MAX_HOLDERS);
        found.map(|thread| in_words(kernel, &thread)).collect()
    }

    fn gather(&self, [running, committing]: [Kva; 2], record: &mut Record) -> Result<()> {
        let mem = &self.context.kernel.mem;
        let mut blocks = BTreeMap::new();
        if !committing.is_null() {
            for (list, kind) in self.lists() {
                self.list(committing, list, kind, |jh| {
                    self.of_committing(jh, kind, running, &mut blocks)
                })?;
            }
        }
        if !running.is_null() {
            let list = self.transaction.t_buffers;
            self.list(running, list, METADATA, |jh| self.of_running(jh, &mut blocks))?;
        }
        record.blocks = blocks.into_values().collect();
        let current = mem.ptr(self.journal, self.own.j_revoke)?;
        let tables = self.tables()?;
        let states = &self.context.kernel.types.layouts.transaction_states;
        let switching = record.running.is_some_and(|(_, state)| Some(state) == states.switch);
        for table in tables {
            // While a transaction switches, its revoked blocks may be in either table, and no other has any.
            let is_committing = table != current && !(switching && committing.is_null());
            self.revoked_in(table, is_committing, &mut record.revoked)?;
        }
        if !committing.is_null() && mem.uint(committing, self.transaction.t_outstanding_revokes)? != 0 {
            self.revoked_in_log(committing, &mut record.revoked)?;
        }
        Ok(())
    }

    /// Shows the blocks of a list of a transaction.
    fn list(&self, transaction: Kva, list: Field, kind: u64, mut show: impl FnMut(Kva) -> Result<()>) -> Result<()> {
        let mem = &self.context.kernel.mem;
        let first = mem.ptr(transaction, list)?;
        let mut at = first;
        for _ in 0..MAX_BLOCKS {
            if at.is_null() {
                return Ok(());
            }
            let next = mem.ptr(at, self.head.b_tnext)?;
            let whole = mem.ptr(at, self.head.b_transaction)? == transaction
                && mem.uint(at, self.head.b_jlist)? == kind
                && mem.ptr(next, self.head.b_tprev)? == at;
            if !whole {
                return Err(refuse("a list of blocks is torn"));
            }
            show(at)?;
            if next == first {
                return Ok(());
            }
            at = next;
        }
        Err(refuse("a list of blocks without end"))
    }

    /// Blocks that wait for being written to their places, and that no transaction has changed since.
    fn checkpoint(&self) -> Result<Vec<JournalBlock>> {
        let mem = &self.context.kernel.mem;
        let mut blocks = Vec::new();
        let next = |at, field| mem.ptr(at, field).map_err(Refusal::from);
        let all = ring(next(self.journal, self.own.j_checkpoint_transactions)?, |at| {
            next(at, self.transaction.t_cpnext)
        })?;
        for transaction in all {
            let first = next(transaction, self.transaction.t_checkpoint_list)?;
            for jh in ring(first, |at| next(at, self.head.b_cpnext))? {
                if next(jh, self.head.b_cp_transaction)? != transaction {
                    return Err(refuse("a list of blocks is torn"));
                }
                let is_old = next(jh, self.head.b_transaction)?.is_null();
                if is_old && next(jh, self.head.b_next_transaction)?.is_null() {
                    blocks.push(self.block(jh)?.0);
                }
            }
        }
        Ok(blocks)
    }

    /// Blocks of both transactions: data of files as it is now, all others without a place. As those were committed they are
    /// nowhere in memory.
    fn uncommitted(&self) -> Result<Vec<JournalBlock>> {
        let layouts = &self.context.kernel.types.layouts;
        let mem = &self.context.kernel.mem;
        let device = ext4::device_mapping(self.context, self.superblock)?;
        let mut blocks = Vec::new();
        for of in [self.own.j_running_transaction, self.own.j_committing_transaction] {
            let transaction = mem.ptr(self.journal, of)?;
            if transaction.is_null() {
                continue;
            }
            for (list, kind) in self.lists() {
                self.list(transaction, list, kind, |jh| {
                    let found = self.block(jh).and_then(|(block, ..)| {
                        // What is no data is in pages of the device. A page without a mapping was cut off its file.
                        let is_data = self.mapping(block.at)? != Some(device);
                        Ok(if is_data { block.at } else { 0 })
                    });
                    let bh = mem.ptr(jh, self.head.b_bh)?;
                    blocks.push(JournalBlock {
                        number: mem.uint(bh, layouts.buffer_head.b_blocknr)?,
                        at: found.unwrap_or(0),
                        ..JournalBlock::default()
                    });
                    Ok(())
                })?;
            }
        }
        Ok(blocks)
    }

    /// The lists of a transaction whose blocks matter, with what they are called in a block.
    const fn lists(&self) -> [(Field, u64); 3] {
        [
            (self.transaction.t_buffers, METADATA),
            (self.transaction.t_shadow_list, SHADOW),
            (self.transaction.t_forget, FORGET),
        ]
    }

    fn of_running(&self, jh: Kva, blocks: &mut BTreeMap<u64, JournalBlock>) -> Result<()> {
        let (block, dirty, _) = self.block(jh)?;
        if !dirty || blocks.contains_key(&block.number) {
            return Err(refuse(alloc::format!(
                "block {} is not what its list says",
                block.number
            )));
        }
        let running = true;
        blocks.insert(block.number, JournalBlock { running, ..block });
        Ok(())
    }

    fn of_committing(&self, jh: Kva, kind: u64, running: Kva, blocks: &mut BTreeMap<u64, JournalBlock>) -> Result<()> {
        let mem = &self.context.kernel.mem;
        let (block, dirty, freed) = self.block(jh)?;
        let next = mem.ptr(jh, self.head.b_next_transaction)?;
        if !next.is_null() && next != running {
            return Err(refuse("a block of a transaction that there is not"));
        }
        if !dirty && kind == FORGET {
            return Ok(());
        }
        if !dirty || blocks.contains_key(&block.number) {
            return Err(refuse(alloc::format!(
                "block {} is not what its list says",
                block.number
            )));
        }
        let frozen = mem.ptr(jh, self.head.b_frozen_data)?;
        let changed = !next.is_null() && !freed && mem.uint(jh, self.head.b_modified)? != 0;
        blocks.insert(
            block.number,
            JournalBlock {
                before: match (next.is_null(), frozen.is_null()) {
                    (true, _) => Some(block.at),
                    (false, false) => Some(self.place(frozen)?),
                    (false, true) => None,
                },
                committing: true,
                running: changed,
                ..block
            },
        );
        Ok(())
    }

    /// A block, whether it has to be written, and whether it was freed.
    fn block(&self, jh: Kva) -> Result<(JournalBlock, bool, bool)> {
        let layouts = &self.context.kernel.types.layouts;
        let mem = &self.context.kernel.mem;
        let states = &layouts.journal_buffer_states;
        let bh = mem.ptr(jh, self.head.b_bh)?;
        let state = mem.uint(bh, layouts.buffer_head.b_state)?;
        let has = |bit: Option<u32>| bit.is_some_and(|bit| state & 1u64.wrapping_shl(bit) != 0);
        let number = mem.uint(bh, layouts.buffer_head.b_blocknr)?;
        let fits = mem.uint(bh, layouts.buffer_head.b_size)? == self.block_size
            && mem.ptr(bh, layouts.buffer_head.b_bdev)? == self.device
            && has(Some(layouts.buffer_states.uptodate));
        if !fits || states.jbddirty.is_none() || states.freed.is_none() {
            return Err(refuse(alloc::format!("block {number} is not one of its journal")));
        }
        if !mem.ptr(jh, self.head.b_triggers)?.is_null() {
            return Err(refuse(
                "blocks get their checksums only as they are committed (orphan_file)",
            ));
        }
        let at = self.place(mem.ptr(bh, layouts.buffer_head.b_data)?)?;
        if !self.is_at(bh, at, number)? {
            return Err(refuse(alloc::format!(
                "block {number} does not lie where its number says"
            )));
        }
        if let Some(inode) = self.wrong_inode(at, number)? {
            return Err(refuse(alloc::format!("inode {inode} has a wrong checksum")));
        }
        let block = JournalBlock {
            number,
            at,
            ..JournalBlock::default()
        };
        Ok((block, has(states.jbddirty), has(states.freed)))
    }

    /// Whether a block of this number can lie there in memory: its page has the buffer, and is in the device's page cache at the
    /// block's place, or in that of a file to which the number belongs. What a page that was cut off its file belonged to is
    /// not known.
    fn is_at(&self, bh: Kva, at: u64, number: u64) -> Result<bool> {
        let layouts = &self.context.kernel.types.layouts;
        let mem = &self.context.kernel.mem;
        let Some((page, within)) = self.context.pages.whole_of(PhysAddr(at)) else {
            return Ok(false);
        };
        let flags = mem.uint(page, self.context.kernel.types.page.flags)?;
        if buffer_at(self.context, page, flags, within) != Some(bh) {
            return Ok(false);
        }
        let mapping = mem.ptr(page, self.context.kernel.types.page.mapping)?;
        let index = mem.uint(page, self.context.kernel.types.page.index)?;
        let offset = index.wrapping_mul(PAGE_SIZE).wrapping_add(within);
        let place = number.checked_mul(self.block_size);
        if mapping == ext4::device_mapping(self.context, self.superblock)? {
            return Ok(place == Some(offset));
        }
        if mapping.is_null() {
            return Ok(true);
        }
        let inode = mem.ptr(mapping, layouts.address_space.host)?;
        if mem.ptr(inode, layouts.inode.i_sb)? != self.superblock {
            return Ok(false);
        }
        let size = offset.saturating_add(self.block_size);
        let blocks = ext4::Blocks::of(self.context, inode, self.superblock, size)?;
        Ok(blocks
            .and_then(|blocks| blocks.place(offset))
            .is_none_or(|found| Some(found) == place))
    }

    /// Whose page cache the page of a block is in (`page->mapping`).
    fn mapping(&self, at: u64) -> Result<Option<Kva>> {
        let kernel = self.context.kernel;
        let page = self.context.pages.whole_of(PhysAddr(at));
        let mapping = page.map(|(page, _)| kernel.mem.ptr(page, kernel.types.page.mapping));
        Ok(mapping.transpose()?)
    }

    /// An inode in the block whose checksum is wrong, where inodes have checksums.
    fn wrong_inode(&self, at: u64, number: u64) -> Result<Option<u64>> {
        let Some(parts) = &self.parts else { return Ok(None) };
        let kernel = self.context.kernel;
        let bytes = kernel
            .mem
            .bytes(kernel.phys_to_kva(PhysAddr(at)), self.block_size as usize)?;
        Ok(parts.wrong_in(number, &bytes))
    }

    /// Where the content of a block lies.
    fn place(&self, data: Kva) -> Result<u64> {
        let PhysAddr(at) = self.context.kernel.mem.translate(data)?;
        if at & self.block_size.wrapping_sub(1) != 0 || at >> PAGE_SHIFT >= self.context.pages.end() {
            return Err(refuse("a block at an address that none has"));
        }
        Ok(at)
    }

    /// Both tables of revoked blocks.
    fn tables(&self) -> Result<[Kva; 2]> {
        let at = self.journal.offset(u64::from(self.own.j_revoke_table.offset));
        let mem = &self.context.kernel.mem;
        Ok([mem.pointer(at)?, mem.pointer(at.offset(8))?])
    }

    fn revoked_in(&self, table: Kva, committing: bool, found: &mut Vec<RevokedBlock>) -> Result<()> {
        let kernel = self.context.kernel;
        let size = kernel.mem.uint(table, self.table.hash_size)?;
        let chains = kernel.mem.ptr(table, self.table.hash_table)?;
        if size > MAX_CHAINS {
            return Err(refuse("a table of revoked blocks without end"));
        }
        let step = u64::from(kernel.types.list_head.struct_size);
        for chain in 0..size {
            let head = chains.offset(chain.wrapping_mul(step));
            for record in kernel.list(head, self.revoked.hash).bounded(MAX_BLOCKS as u64) {
                let number = kernel.mem.uint(record?, self.revoked.blocknr)?;
                found.push(RevokedBlock { number, committing });
            }
            if found.len() > MAX_BLOCKS {
                return Err(refuse("revoked blocks without end"));
            }
        }
        Ok(())
    }

    /// Revoked blocks that were put into blocks of the log: those from the start of the transaction up to its first
    /// descriptor.
    fn revoked_in_log(&self, committing: Kva, found: &mut Vec<RevokedBlock>) -> Result<()> {
        let kernel = self.context.kernel;
        let layouts = &kernel.types.layouts;
        let inode = kernel.mem.ptr(self.journal, self.own.j_inode)?;
        let size = kernel.mem.uint(inode, layouts.inode.i_size)?;
        let Some(blocks) = ext4::Blocks::of(self.context, inode, self.superblock, size)? else {
            return Err(refuse("the journal's blocks cannot be told"));
        };
        let field = |field| kernel.mem.uint(self.journal, field);
        let (first, last) = (field(self.own.j_first)?, field(self.own.j_last)?);
        let tid = kernel.mem.uint(committing, self.transaction.t_tid)? as u32;
        let state = kernel.mem.uint(committing, self.transaction.t_state)? as u32;
        let wide = self.wide()?;
        let mut at = kernel.mem.uint(committing, self.transaction.t_log_start)?;
        for _ in 0..MAX_BLOCKS {
            let offset = at.wrapping_mul(self.block_size);
            let place = blocks.place(offset);
            let block = place.and_then(|place| blocks.cached(self.context, place));
            let kind = block.as_deref().and_then(|block| kind(block, tid));
            match (block, kind) {
                (Some(block), Some(REVOKE)) => {
                    let numbers =
                        revoked_numbers(&block, wide).ok_or_else(|| refuse("a torn list of revoked blocks"))?;
                    let committing = true;
                    found.extend(numbers.into_iter().map(|number| RevokedBlock { number, committing }));
                }
                (_, Some(DESCRIPTOR | COMMIT)) => return Ok(()),
                // Nothing of it is in the log yet: all are in the table.
                _ if Some(state) == layouts.transaction_states.flush => return Ok(()),
                _ => {
                    return Err(refuse(
                        "revoked blocks of the transaction being committed are not in memory",
                    ))
                }
            }
            at = at.wrapping_add(1);
            if at >= last {
                at = first;
            }
        }
        Err(refuse("revoked blocks without end"))
    }

    /// Whether numbers in the log have 64 bits.
    fn wide(&self) -> Result<bool> {
        let superblock = self.context.kernel.mem.ptr(self.journal, self.own.j_superblock)?;
        let features = self.context.kernel.mem.array::<4>(superblock.offset(40))?;
        Ok(u32::from_be_bytes(features) & 2 != 0)
    }
}

/// A thread and, if it is asleep, where.
fn in_words<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, thread: &overview::Thread) -> String {
    let comm = String::from_utf8_lossy(&thread.comm);
    if thread.on_cpu {
        return alloc::format!("{comm} {} on a CPU", thread.pid);
    }
    let chain = Unwind::sleeping(kernel, thread.task).map(|chain| frames(chain).0);
    let names = chain.unwrap_or_default().into_iter().filter_map(|ip| {
        let found = kernel.kallsyms.symbolize(ip.back(1))?;
        Some(found.name)
    });
    let names: Vec<String> = names.take(MAX_FRAMES).collect();
    alloc::format!("{comm} {} in {}", thread.pid, names.join(" < "))
}

/// Kind of a block of the log that belongs to a transaction.
fn kind(block: &[u8], tid: u32) -> Option<u32> {
    let word = |at: usize| block.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    (block.get(..4)? == MAGIC && word(8)? == tid).then_some(word(4)?)
}

/// The numbers in a block of revoked ones; `None` if they cannot be told, as while it is being filled: its count comes last.
fn revoked_numbers(block: &[u8], wide: bool) -> Option<Vec<u64>> {
    const HEADER: usize = 16;
    let count = u32::from_be_bytes(*block.get(12..)?.first_chunk()?) as usize;
    let numbers = block.get(HEADER..count)?;
    Some(if wide {
        let words = numbers.chunks_exact(8).filter_map(<[u8]>::first_chunk);
        words.map(|word| u64::from_be_bytes(*word)).collect()
    } else {
        let words = numbers.chunks_exact(4).filter_map(<[u8]>::first_chunk);
        words.map(|word| u64::from(u32::from_be_bytes(*word))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, tid: u32, rest: &[u8]) -> Vec<u8> {
        let mut block = MAGIC.to_vec();
        block.extend_from_slice(&kind.to_be_bytes());
        block.extend_from_slice(&tid.to_be_bytes());
        block.extend_from_slice(rest);
        block.resize(64, 0);
        block
    }

    #[test]
    fn blocks_of_the_log_are_known_by_magic_and_number() {
        assert_eq!(kind(&block(REVOKE, 7, &[]), 7), Some(REVOKE));
        assert_eq!(kind(&block(REVOKE, 7, &[]), 8), None);
        assert_eq!(kind(&[0; 64], 0), None);
        assert_eq!(kind(&MAGIC, 0), None);
    }

    #[test]
    fn revoked_numbers_are_as_wide_as_is_said() {
        let numbers = [0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(
            revoked_numbers(&block(REVOKE, 7, &numbers), true).unwrap(),
            [0x1_0000_0002]
        );
        assert_eq!(revoked_numbers(&block(REVOKE, 7, &numbers), false).unwrap(), [1, 2]);
        assert_eq!(revoked_numbers(&block(REVOKE, 7, &[]), true), None);
        let beyond = [0, 0, 1, 0];
        assert_eq!(revoked_numbers(&block(REVOKE, 7, &beyond), true), None);
    }
}
