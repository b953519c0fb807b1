//! The list of cells and the coverage table.

use crate::cells;
use crate::place::Place;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Why no cell observes what is of no process.
const WHOLE_FILE_SYSTEMS: &str = "of no process: seen by the scenario `acknowledged`";
const WARM_CACHE: &str = "of no process: seen by the scenario `warm-cache`";
const VOLUMES: &str = "of no process: seen by the scenario `lvm`";
const BTRFS: &str = "of no process: seen by the scenario `acknowledged-btrfs`";
const XFS: &str = "of no process: seen by the scenario `acknowledged-xfs`";
const CONTAINER: &str = "of a container; seen by the scenario `container-network`";
const LINKS: &str = "of no process: seen by the scenario `links`";
const RESCUE: &str = "of no process: seen by the scenario `rescue-unmounted`";
const VFAT: &str = "of no process: seen by the scenario `acknowledged-vfat`";

/// Fields of the Essential Context that no cell observes, each with its reason.
pub const NOT_OBSERVED: &[(&str, &str)] = &[
    ("Machine.release", "names the dead kernel; shown by the report"),
    ("Machine.build_id", "names the dead kernel; shown by the report"),
    (
        "Machine.hostname",
        "a property of the machine; compared by the scenarios",
    ),
    (
        "Machine.domainname",
        "a property of the machine; compared by the scenarios",
    ),
    ("Machine.cpus", "a property of the machine; compared by the scenarios"),
    (
        "Machine.total_ram_pages",
        "a property of the machine; compared by the scenarios",
    ),
    ("Machine.xcr0", "tells how to read `Thread.xstate`"),
    ("Clock.tsc", "the instant the other clocks belong to"),
    ("Clock.tsc_hz", "the unit of `Clock.tsc`"),
    (
        "Clock.frequency",
        "a correction below what a cell can measure in seconds",
    ),
    ("Process.mm", "an id that ties records together"),
    ("PosixTimer.overrun", "depends on the instant the signal is taken"),
    ("Thread.unusual", "a process with any of these is refused"),
    ("Sched.deadline", "needs bandwidth that a test guest does not reserve"),
    ("Creds.lsm", "the guests run without a policy"),
    ("Creds.keyrings", "a process with any of these is refused"),
    ("Mapping.backing", "listed by its values"),
    ("Mapping.pkey", "the emulated CPU has no protection keys"),
    ("Mapping.unusual", "a process with any of these is refused"),
    ("Backing.Unsupported", "a process with one is refused"),
    ("OpenFile.what", "listed by its values"),
    ("OpenFileKind.Unsupported", "a process with one is refused"),
    ("OpenFileKind.Console", "standard output of the cells, where it is one"),
    ("SharedSegment.locked", "not shown by a segment's description"),
    ("InotifyWatch.inode", "an id that ties records together"),
    ("InotifyWatch.number", "an id by which the file is found again"),
    ("Inode.number", "an id by which the file is found again"),
    ("Inode.generation", "an id by which the file is found again"),
    ("Inode.device", "an id by which the file is found again"),
    ("Inode.fstype", "an id by which the file is found again"),
    ("Inode.uid", "seen with `Inode.mode` by files/dirty"),
    ("Inode.gid", "seen with `Inode.mode` by files/dirty"),
    (
        "Resume.Undecided",
        "seen by the scenario `library`: only a hook decides",
    ),
    ("SharedMemory.swapped", "0: what is on swap has records of its own"),
    ("SwapArea.name", "for messages"),
    (
        "BlockDevice.partition",
        "seen where the area is a partition: by the scenario `swap`",
    ),
    ("ChangedInode.generation", XFS),
    ("ChangedInode.names_are_known", XFS),
    ("ChangedInode.nlink", XFS),
    ("ChangedInode.number", XFS),
    ("ChangedInodes.device", XFS),
    ("ChangedInodes.inodes", XFS),
    ("ChangedInodes.is_complete", XFS),
    ("FreeNumbers.device", BTRFS),
    ("FreeNumbers.ranges", BTRFS),
    ("Subvolume.device", BTRFS),
    ("Subvolume.file_system", BTRFS),
    ("Subvolume.number", BTRFS),
    ("Subvolume.uuid", BTRFS),
    ("CachedFile.device", WARM_CACHE),
    ("CachedFile.generation", WARM_CACHE),
    ("CachedFile.number", WARM_CACHE),
    ("CachedFile.size", WARM_CACHE),
    ("CachedFile.version", WARM_CACHE),
    ("Checkpoint.blocks", WHOLE_FILE_SYSTEMS),
    ("Checkpoint.device", WHOLE_FILE_SYSTEMS),
    ("DirtyFile.ahead", WHOLE_FILE_SYSTEMS),
    ("DirtyFile.device", WHOLE_FILE_SYSTEMS),
    ("DirtyFile.generation", WHOLE_FILE_SYSTEMS),
    ("DirtyFile.number", WHOLE_FILE_SYSTEMS),
    ("DirtyFile.parts", WHOLE_FILE_SYSTEMS),
    ("DirtyFile.size", WHOLE_FILE_SYSTEMS),
    ("DirtyFile.times", WHOLE_FILE_SYSTEMS),
    ("LinkAttribute.kind", LINKS),
    ("LinkAttribute.value", LINKS),
    ("LinkSetup.first", LINKS),
    ("LinkSetup.index", LINKS),
    ("LinkSetup.kind", LINKS),
    ("LinkSetup.later", LINKS),
    ("LinkSetup.lower", LINKS),
    ("LinkSetup.master", LINKS),
    (
        "LinkSetup.not_made",
        "of no process: seen by the scenario `address-gone`",
    ),
    ("LinkSetup.permanent", LINKS),
    ("IdleJournal.device", RESCUE),
    ("IdleJournal.name", RESCUE),
    ("IdleJournal.uuid", RESCUE),
    ("LeftAt.changed", "of no process: seen by the scenario `rescue-full`"),
    ("SavedBy.boot_id", RESCUE),
    ("FatBlock.at", VFAT),
    ("FatBlock.sector", VFAT),
    ("FatDirectory.names", VFAT),
    ("FatDirectory.start", VFAT),
    ("FatFile.parts", VFAT),
    ("FatFileSystem.blocks", VFAT),
    ("FatFileSystem.changing", VFAT),
    ("FatFileSystem.disk", VFAT),
    ("FatFileSystem.geometry", VFAT),
    ("FatFileSystem.inodes", VFAT),
    ("FatFileSystem.is_behind", VFAT),
    ("FatFileSystem.last_allocated", VFAT),
    ("FatFileSystem.local_offset", VFAT),
    ("FatFileSystem.name", VFAT),
    ("FatFileSystem.was_dirty", VFAT),
    ("FatGeometry.bits", VFAT),
    ("FatGeometry.cluster", VFAT),
    ("FatGeometry.clusters", VFAT),
    ("FatGeometry.data_start", VFAT),
    ("FatGeometry.fat_sectors", VFAT),
    ("FatGeometry.fat_start", VFAT),
    ("FatGeometry.fats", VFAT),
    ("FatGeometry.info_sector", VFAT),
    ("FatGeometry.root_cluster", VFAT),
    ("FatGeometry.root_entries", VFAT),
    ("FatGeometry.root_start", VFAT),
    ("FatGeometry.sector", VFAT),
    ("FatGeometry.volume", VFAT),
    ("FatInode.attributes", VFAT),
    ("FatInode.id", VFAT),
    ("FatInode.position", VFAT),
    ("FatInode.size", VFAT),
    ("FatInode.start", VFAT),
    ("FatInode.times", VFAT),
    ("Journal.block_size", WHOLE_FILE_SYSTEMS),
    ("Journal.blocks", WHOLE_FILE_SYSTEMS),
    ("Journal.committing", WHOLE_FILE_SYSTEMS),
    ("Journal.device", WHOLE_FILE_SYSTEMS),
    ("Journal.inode", WHOLE_FILE_SYSTEMS),
    ("Journal.name", WHOLE_FILE_SYSTEMS),
    ("Journal.refused", WHOLE_FILE_SYSTEMS),
    ("Journal.revoked", WHOLE_FILE_SYSTEMS),
    ("Journal.running", WHOLE_FILE_SYSTEMS),
    ("Journal.running_refused", WHOLE_FILE_SYSTEMS),
    ("Journal.superblock", WHOLE_FILE_SYSTEMS),
    ("LowerDevice.Disk", VOLUMES),
    ("LowerDevice.Mapped", VOLUMES),
    ("MappedDevice.is_read_only", VOLUMES),
    ("MappedDevice.name", VOLUMES),
    ("MappedDevice.parts", VOLUMES),
    ("MappedDevice.refused", VOLUMES),
    ("MappedDevice.uuid", VOLUMES),
    ("MappedOn.device", VOLUMES),
    ("MappedOn.from", VOLUMES),
    ("MappedPart.chunk", VOLUMES),
    ("MappedPart.on", VOLUMES),
    ("MappedPart.sectors", VOLUMES),
    ("Journal.uuid", WHOLE_FILE_SYSTEMS),
    ("JournalBlock.at", WHOLE_FILE_SYSTEMS),
    ("JournalBlock.before", WHOLE_FILE_SYSTEMS),
    ("JournalBlock.committing", WHOLE_FILE_SYSTEMS),
    ("JournalBlock.number", WHOLE_FILE_SYSTEMS),
    ("JournalBlock.running", WHOLE_FILE_SYSTEMS),
    ("Attribute.name", WHOLE_FILE_SYSTEMS),
    ("Attribute.value", WHOLE_FILE_SYSTEMS),
    ("Name.generation", WHOLE_FILE_SYSTEMS),
    ("Name.name", WHOLE_FILE_SYSTEMS),
    ("Name.number", WHOLE_FILE_SYSTEMS),
    ("Names.device", WHOLE_FILE_SYSTEMS),
    ("Names.entries", WHOLE_FILE_SYSTEMS),
    ("Names.generation", WHOLE_FILE_SYSTEMS),
    ("Names.gone", WHOLE_FILE_SYSTEMS),
    ("Names.is_complete", WHOLE_FILE_SYSTEMS),
    ("Names.number", WHOLE_FILE_SYSTEMS),
    ("Names.path", WHOLE_FILE_SYSTEMS),
    ("Names.rest", WHOLE_FILE_SYSTEMS),
    ("Names.uuid", WHOLE_FILE_SYSTEMS),
    ("Node.attributes", WHOLE_FILE_SYSTEMS),
    ("Node.device", WHOLE_FILE_SYSTEMS),
    ("Node.generation", WHOLE_FILE_SYSTEMS),
    ("Node.gid", WHOLE_FILE_SYSTEMS),
    ("Node.mode", WHOLE_FILE_SYSTEMS),
    ("Node.number", WHOLE_FILE_SYSTEMS),
    ("Node.rdev", WHOLE_FILE_SYSTEMS),
    ("Node.target", WHOLE_FILE_SYSTEMS),
    ("Node.times", WHOLE_FILE_SYSTEMS),
    ("Node.uid", WHOLE_FILE_SYSTEMS),
    ("PagePart.at", WHOLE_FILE_SYSTEMS),
    ("PagePart.bytes", WHOLE_FILE_SYSTEMS),
    ("PagePart.offset", WHOLE_FILE_SYSTEMS),
    ("RevokedBlock.committing", WHOLE_FILE_SYSTEMS),
    ("RevokedBlock.number", WHOLE_FILE_SYSTEMS),
    (
        "IoUring.timeouts",
        "only how much it differs from `IoUring.timeouts_flushed` is seen",
    ),
    (
        "IoUring.timeouts_flushed",
        "makes a difference after two thousand million completions",
    ),
    ("Socket.state", "listed by its values"),
    (
        "PeerFin.Crossed",
        "both ends under way at once: no cell can hold a segment back",
    ),
    ("NamespaceNetwork.network", CONTAINER),
    ("NamespaceNetwork.network6", CONTAINER),
    ("NamespaceNetwork.setups", CONTAINER),
    ("NamespaceNetwork.down", CONTAINER),
    ("Network.links", "a property of the machine; seen by the scenario `tcp`"),
    (
        "Network.addresses",
        "a property of the machine; seen by the scenario `tcp`",
    ),
    (
        "Network.routes",
        "a property of the machine; seen by the scenario `tcp`",
    ),
    ("Network.left_out", "shown by the report"),
    ("NetworkLink.index", "an id that ties records together"),
    ("NetworkLink.name", "seen by the scenario `tcp`"),
    ("NetworkLink.hardware", "an id by which the link is found again"),
    ("NetworkLink.mtu", "seen by the scenario `tcp`"),
    ("NetworkAddress.link", "an id that ties records together"),
    ("NetworkAddress.local", "seen by the scenario `tcp`"),
    ("NetworkAddress.address", "seen by the scenario `tcp`"),
    ("NetworkAddress.prefix", "seen by the scenario `tcp`"),
    ("NetworkAddress.scope", "seen by the scenario `tcp`"),
    ("NetworkAddress.broadcast", "seen by the scenario `tcp`"),
    ("NetworkAddress.label", "seen by the scenario `tcp`"),
    ("NetworkRoute.destination", "seen by the scenario `tcp`"),
    ("NetworkRoute.prefix", "seen by the scenario `tcp`"),
    ("NetworkRoute.gateway", "seen by the scenario `tcp`"),
    ("NetworkRoute.link", "an id that ties records together"),
    ("NetworkRoute.source", "seen by the scenario `tcp`"),
    ("NetworkRoute.priority", "seen by the scenario `tcp`"),
    ("NetworkRoute.protocol", "seen by the scenario `tcp`"),
    ("NetworkRoute.scope", "seen by the scenario `tcp`"),
    ("NetworkRoute.kind", "seen by the scenario `tcp`"),
    (
        "Netfilter.rules",
        "a property of the machine; seen by the scenario `firewall`",
    ),
    (
        "Netfilter.connections",
        "a property of the machine; seen by the scenario `firewall`",
    ),
    ("Netfilter.left_out", "shown in the log"),
    ("Rules.None", "seen by every scenario without a firewall"),
    ("Rules.Kept", "seen by the scenario `firewall`"),
    ("Rules.Unknown", "seen by the scenario `firewall`"),
    ("Flow.source", "seen by the scenario `firewall`"),
    ("Flow.destination", "seen by the scenario `firewall`"),
    ("Flow.source_port", "seen by the scenario `firewall`"),
    ("Flow.destination_port", "seen by the scenario `firewall`"),
    ("TrackedConnection.protocol", "seen by the scenario `firewall`"),
    ("TrackedConnection.original", "seen by the scenario `firewall`"),
    ("TrackedConnection.reply", "seen by the scenario `firewall`"),
    ("TrackedConnection.status", "seen by the scenario `firewall`"),
    ("TrackedConnection.mark", "seen by the scenario `firewall`"),
    ("TrackedConnection.timeout", "seen by the scenario `firewall`"),
    ("TrackedConnection.state", "seen by the scenario `firewall`"),
    ("TrackedConnection.scales", "seen by the scenario `firewall`"),
    ("TrackedConnection.flags", "seen by the scenario `firewall`"),
    (
        "Network6.lives",
        "a property of the machine; seen by the scenario `routes6`",
    ),
    (
        "Network6.routes",
        "a property of the machine; seen by the scenario `routes6`",
    ),
    ("AddressLife.link", "an id that ties records together"),
    ("AddressLife.address", "seen by the scenario `routes6`"),
    ("AddressLife.flags", "seen by the scenario `routes6`"),
    ("AddressLife.preferred", "seen by the scenario `routes6`"),
    ("AddressLife.valid", "seen by the scenario `routes6`"),
    ("NetworkRoute6.destination", "seen by the scenario `routes6`"),
    ("NetworkRoute6.prefix", "seen by the scenario `routes6`"),
    ("NetworkRoute6.gateway", "seen by the scenario `routes6`"),
    ("NetworkRoute6.link", "an id that ties records together"),
    ("NetworkRoute6.source", "seen by the scenario `routes6`"),
    ("NetworkRoute6.priority", "seen by the scenario `routes6`"),
    ("NetworkRoute6.protocol", "seen by the scenario `routes6`"),
    ("NetworkRoute6.kind", "seen by the scenario `routes6`"),
    ("NetworkRoute6.preference", "seen by the scenario `routes6`"),
    ("NetworkRoute6.expires", "seen by the scenario `routes6`"),
];

/// The cells, one a line, or as a JSON array.
pub fn list(json: bool) -> String {
    if json {
        let list: Vec<_> = cells::all()
            .map(|cell| {
                serde_json::json!({
                    "name": cell.name,
                    "what": cell.what,
                    "covers": cell.covers,
                    "caught": cell.caught,
                })
            })
            .collect();
        let places: Vec<_> = Place::ALL.iter().map(|place| place.name()).collect();
        let not_observed: Vec<_> = NOT_OBSERVED.iter().map(|(field, _)| field).collect();
        let all = serde_json::json!({"cells": list, "places": places, "not_observed": not_observed});
        return format!("{all:#}\n");
    }
    cells::all().fold(String::new(), |text, cell| text + cell.name + "\n")
}

/// The coverage table in Markdown.
pub fn coverage() -> String {
    let mut text = String::from(
        "# Coverage of the self-checking programs\n\n\
         Written by `selfcheck --coverage`; a test compares this file with the program.\n\n\
         A cell is a resource in a state; it is caught where the table says, or, where that says *any*, at the place\n\
         given by `--at`: ",
    );
    let places: Vec<_> = Place::ALL.iter().map(|place| format!("`{}`", place.name())).collect();
    text += &places.join(", ");
    text += ".\nEvery cell has a mutation (`--mutate`) under which it has to fail.\n\n## Cells\n\n\
             | cell | caught in | checks |\n|---|---|---|\n";
    let mut fields: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for cell in cells::all() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} |",
            cell.name,
            cell.caught.unwrap_or("any"),
            cell.what
        );
        for field in cell.covers {
            fields.entry(field).or_default().push(cell.name);
        }
    }
    text += "\n## Record fields\n\nWhich cells observe which field of the Essential Context.\n\n\
             | field | cells |\n|---|---|\n";
    for (field, cells) in fields {
        let cells: Vec<_> = cells.iter().map(|cell| format!("`{cell}`")).collect();
        let _ = writeln!(text, "| `{field}` | {} |", cells.join(", "));
    }
    text += "\n## Fields that no cell observes\n\n| field | why |\n|---|---|\n";
    for (field, reason) in NOT_OBSERVED {
        let _ = writeln!(text, "| `{field}` | {reason} |");
    }
    text
}
