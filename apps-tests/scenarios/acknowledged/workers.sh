#!/bin/sh
# Workers that change files on several file systems at once, none of them protected, and the judgement of what they did.
#
# workers.sh start [KIND]: makes file systems of a kind and starts; ready; check; lost: what an ordinary crash has cost.
churn=/opt/orthros-tests/churn
state=/var/churn
# Directory, name, seed and device of each.
workers="/srv/large:large:11:vdb /srv/small:small:12:vdc /var/churn:root:13:vda"

# Options of mkfs and of mount for both disks.
format() {
    case $1 in
    journal) large="-b 4096" large_mount="data=journal" small="-b 1024" small_mount="data=journal" ;;
    *) large="-b 4096" large_mount="rw" small="-b 1024" small_mount="rw" ;;
    esac
    # shellcheck disable=SC2086
    mkfs.ext4 -q -F $large /dev/vdb && mkfs.ext4 -q -F $small /dev/vdc || exit 1
    printf '%s\n' "$large_mount" >$state/large-mount
    printf '%s\n' "$small_mount" >$state/small-mount
}

mount_both() {
    mountpoint -q /srv/large || mount -t ext4 -o "$(cat $state/large-mount)" /dev/vdb /srv/large || return 1
    mountpoint -q /srv/small || mount -t ext4 -o "$(cat $state/small-mount)" /dev/vdc /srv/small
}

run() {
    # Data is written back after 2 s instead of 30, so that every stage is met; the journal commits every 5 s.
    sysctl -qw vm.dirty_expire_centisecs=200 vm.dirty_writeback_centisecs=100
    port=0
    for worker in $workers; do
        IFS=: read -r dir name seed device <<END
$worker
END
        rm -rf "$dir/work" && mkdir -p "$dir/work"
        setsid $churn run --port $port --dir "$dir/work" --name "$name" --seed "$seed" \
            >"/run/churn-$name.log" 2>&1 </dev/null &
        port=$((port + 1))
    done
    # The cache of the devices themselves has copies of everything, which grow old: none of them may reach a disk.
    for device in /dev/vdb /dev/vdc; do
        setsid sh -c "while dd if=$device of=/dev/null bs=1M count=64 status=none; do sleep 3; done" >/dev/null 2>&1 </dev/null &
    done
}

ready() {
    # One commit of the journal at least lies between the start and the panic.
    sleep 8
    for worker in $workers; do
        IFS=: read -r dir name seed device <<END
$worker
END
        pgrep -f -- "--name $name" >/dev/null || { cat "/run/churn-$name.log"; exit 1; }
    done
}

case $1 in
start)
    mkdir -p /srv/large /srv/small $state
    format "$2"
    mount_both || exit 1
    run
    sync $state/large-mount $state/small-mount
    ;;
ready) ready ;;
check)
    status=0 kept=0
    mount_both || status=1
    for worker in $workers; do
        IFS=: read -r dir name seed device <<END
$worker
END
        if $churn check --dir "$dir/work" --name "$name" --seed "$seed" --acknowledged "$ACKNOWLEDGED"; then
            kept=$((kept + 1))
        # What is lost must be named.
        elif orthros-ctl report | grep -E "  (file system on $device, |$dir)"; then
            echo "$name: given up by name"
        else
            status=1
        fi
    done
    test $kept -gt 0 || status=1
    orthros-ctl report | grep "^File system on"
    for device in /dev/vdb:/srv/large /dev/vdc:/srv/small; do
        umount "${device#*:}" && e2fsck -fn "${device%:*}" || status=1
    done
    exit $status
    ;;
lost)
    # After an ordinary crash: how much is lost, and that there is something at all.
    lost=0
    mount_both || exit 1
    for worker in $workers; do
        IFS=: read -r dir name seed device <<END
$worker
END
        $churn check --dir "$dir/work" --name "$name" --seed "$seed" --acknowledged "$ACKNOWLEDGED" || lost=$((lost + 1))
    done
    for device in /dev/vdb:/srv/large /dev/vdc:/srv/small; do
        umount "${device#*:}" && e2fsck -fn "${device%:*}" || exit 1
    done
    test $lost -gt 0
    ;;
esac
