#!/bin/sh
# Workers that change files on several file systems at once, none of them protected, and the judgement of what they did.
#
# workers.sh start [KIND]: makes file systems of a kind and starts; ready; again: the next round, on the same file systems;
# check [damaged]; lost: what an ordinary crash has cost.
churn=/opt/orthros-tests/churn
state=/var/churn

# Of each further disk: its device, options of mkfs and of mount. What is not said is Debian's choice; of ext4 ordered data,
# delayed allocation, checksums, numbers of 64 bits.
disks() {
    case $1 in
    journal) cat <<END
vdb|-b 4096|data=journal
vdc|-b 1024|data=journal
END
        ;;
    kinds) cat <<END
vdb|-b 4096|data=writeback
vdc|-b 2048|data=writeback
vdd|-b 2048 -O ^metadata_csum,^64bit|nodelalloc
vde|-b 1024 -O ^metadata_csum|dioread_lock
vdf|-b 4096|data=journal
vdg|-b 1024|rw
END
        ;;
    all)
        disks kinds
        echo "vdh|-b 2048 -I 128 -O ^64bit|data=journal"
        ;;
    # Where Linux 6.1 writes blocks to the log that it zeroes meanwhile (docs/FILES.md), all the more if it is often told to.
    often)
        for disk in vdb vdc vdd vde vdf vdg vdh; do echo "$disk|-b 2048 -I 128 -O ^64bit|data=journal"; done
        ;;
    xfs) cat <<END
vdb|-b size=4096|rw
vdc|-b size=1024|rw
END
        ;;
    vfat) cat <<END
vdb|-F 32 -s 1|rw
vdc|-F 16 -S 1024 -s 8|rw
vdd|-F 32 -S 4096 -s 1|rw
END
        ;;
    btrfs) cat <<END
vdb|-n 16384|commit=3,subvol=@data
vdc|-M -n 4096|nodatacow
END
        ;;
    *) cat <<END
vdb|-b 4096|rw
vdc|-b 1024|rw
END
        ;;
    esac
}

# Makes a file system on a disk.
make() {
    disk=$1
    shift
    case $fstype in
    xfs) mkfs.xfs -q -f "$@" /dev/$disk ;;
    vfat) mkfs.vfat "$@" /dev/$disk >/dev/null ;;
    btrfs) mkfs.btrfs -q -f "$@" /dev/$disk ;;
    *) mkfs.ext4 -q -F "$@" /dev/$disk ;;
    esac
}

# Makes the subvolumes of one. Each has a second place for a worker, `below`: the mount of another subvolume, or one that nothing mounts.
divide() {
    mount -t btrfs -o subvolid=5 /dev/$1 /srv/$1 || return 1
    case $2 in
    *subvol=*)
        btrfs -q subvolume create /srv/$1/@data && btrfs -q subvolume create /srv/$1/@other && mkdir /srv/$1/@data/below
        ;;
    *) btrfs -q subvolume create /srv/$1/below ;;
    esac && umount /srv/$1
}

# Looks at one that is not mounted, and changes nothing.
is_sound() {
    case $fstype in
    xfs) xfs_repair -n /dev/$1 ;;
    vfat) fsck.vfat -n /dev/$1 ;;
    btrfs) btrfs check --readonly /dev/$1 ;;
    *) e2fsck -fn /dev/$1 ;;
    esac
}

mount_all() {
    while IFS='|' read -r disk _ options; do
        mountpoint -q /srv/$disk || mount -t $fstype -o "$options" /dev/$disk /srv/$disk || return 1
        case $options in
        *subvol=*) mountpoint -q /srv/$disk/below || mount -t $fstype -o subvol=@other /dev/$disk /srv/$disk/below || return 1 ;;
        esac
    done <$state/disks
}

# Directory, name and seed of each worker; every round has names and seeds of its own.
each_worker() {
    round=$(cat $state/round) seed=10
    for disk in $(cut -d'|' -f1 $state/disks) vda; do
        dir=/srv/$disk seed=$((seed + 1))
        plain=
        test $fstype != vfat || plain=--plain
        test $disk != vda || dir=$state plain=
        "$@" "$dir/work" "$disk-$round-" "$seed$round" $((seed - 11)) $disk
        if test -d $dir/below; then
            seed=$((seed + 1))
            "$@" "$dir/below/work" "$disk-below-$round-" "$seed$round" $((seed - 11)) $disk
        fi
    done
}

start_one() {
    rm -rf "$1" && mkdir -p "$1"
    setsid $churn run --dir "$1" --name "$2" --seed "$3" --port "$4" $plain >"/run/churn-$2.log" 2>&1 </dev/null &
}

run() {
    # Data is written back after 2 s instead of 30, so that every stage is met; the journal commits every 5 s.
    sysctl -qw vm.dirty_expire_centisecs=200 vm.dirty_writeback_centisecs=100
    each_worker start_one
    # The cache of the devices themselves has copies of everything, which grow old: none of them may reach a disk.
    setsid sh -c "while sleep 3; do
        for disk in $(cut -d'|' -f1 $state/disks | tr '\n' ' '); do dd if=/dev/\$disk of=/dev/null bs=1M count=32 status=none; done
    done" >/dev/null 2>&1 </dev/null &
    test "$(cat $state/kind)" != often || setsid sh -c "while sleep 0.4; do sync; done" >/dev/null 2>&1 </dev/null &
}

runs() {
    pgrep -f -- "--name $2" >/dev/null || { cat "/run/churn-$2.log"; exit 1; }
}

ready() {
    # One commit of the journal at least lies between the start and the panic.
    sleep 8
    each_worker runs
}

# Whether the file systems are mounted as they were.
same_options() {
    while IFS='|' read -r disk _ options; do
        for option in $(echo "$options" | tr , ' '); do
            case $option in
            data=* | nodelalloc) grep -q "^/dev/$disk .*$option" /proc/mounts || { echo "$disk: not mounted with $option"; status=1; } ;;
            esac
        done
    done <$state/disks
}

check_one() {
    if $churn check --dir "$1" --name "$2" --seed "$3" --acknowledged="$ACKNOWLEDGED" $plain; then
        kept=$((kept + 1))
    # What is lost must be named.
    elif orthros-ctl report | grep -E "  (file system on $5, |$1)"; then
        echo "$2: given up by name"
    elif test "$5" = "$damaged"; then
        echo "$2: damaged"
    else
        status=1
    fi
}

lost_one() {
    $churn check --dir "$1" --name "$2" --seed "$3" --acknowledged="$ACKNOWLEDGED" $plain || lost=$((lost + 1))
}

# Whether the disks are sound, each by its checker.
sound() {
    for disk in $(cut -d'|' -f1 $state/disks); do
        umount -R /srv/$disk && is_sound $disk || status=1
    done
}

fstype=$(cat $state/fstype 2>/dev/null)
case $1 in
start)
    mkdir -p $state
    disks "$2" >$state/disks
    case $2 in
    xfs | vfat | btrfs) fstype=$2 ;;
    *) fstype=ext4 ;;
    esac
    echo $fstype >$state/fstype
    echo "$2" >$state/kind
    echo 1 >$state/round
    while IFS='|' read -r disk options of_mount; do
        # shellcheck disable=SC2086
        make $disk $options && mkdir -p /srv/$disk || exit 1
        test $fstype != btrfs || divide $disk "$of_mount" || exit 1
    done <$state/disks
    mount_all || exit 1
    run
    sync $state/disks $state/fstype $state/kind $state/round
    ;;
ready) ready ;;
again)
    mount_all || exit 1
    echo $(($(cat $state/round) + 1)) >$state/round.new
    sync $state/round.new
    mv $state/round.new $state/round
    sync $state
    run
    ready
    ;;
check)
    status=0 kept=0 damaged=$2
    same_options
    mount_all || status=1
    each_worker check_one
    test $kept -gt 0 || status=1
    sound
    # All of it if something is lost: the next failover's takes its place.
    orthros-ctl report | if test $status = 0; then grep "^File system on"; else cat; fi
    exit $status
    ;;
lost)
    # After an ordinary crash: how much is lost, and that there is something at all.
    status=0 lost=0
    mount_all || exit 1
    each_worker lost_one
    sound
    test $lost -gt 0 || status=1
    exit $status
    ;;
esac
