#!/bin/sh
# Workers that change files on several file systems at once, none of them protected, and the judgement of what they did.
churn=/opt/orthros-tests/churn
# Directory, name, seed and device of each.
workers="/srv/large:large:11:vdb /srv/small:small:12:vdc /var/churn:root:13:vda"

case $1 in
start)
    mkdir -p /srv/large /srv/small /var/churn
    mkfs.ext4 -q -F -b 4096 /dev/vdb && mount -t ext4 /dev/vdb /srv/large || exit 1
    mkfs.ext4 -q -F -b 1024 /dev/vdc && mount -t ext4 /dev/vdc /srv/small || exit 1
    # Data is written back after 2 s instead of 30, so that every stage is met; the journal commits every 5 s.
    sysctl -qw vm.dirty_expire_centisecs=200 vm.dirty_writeback_centisecs=100
    port=0
    for worker in $workers; do
        IFS=: read -r dir name seed device <<END
$worker
END
        mkdir -p "$dir/work"
        setsid $churn run --port $port --dir "$dir/work" --name "$name" --seed "$seed" >"/run/churn-$name.log" 2>&1 </dev/null &
        port=$((port + 1))
    done
    # The cache of the devices themselves has copies of everything, which grow old: none of them may reach a disk.
    for device in /dev/vdb /dev/vdc; do
        setsid sh -c "while dd if=$device of=/dev/null bs=1M count=64 status=none; do sleep 3; done" >/dev/null 2>&1 </dev/null &
    done
    touch /run/started
    ;;
ready)
    # One commit of the journal at least lies between the start and the panic.
    sleep 8
    for worker in $workers; do
        IFS=: read -r dir name seed device <<END
$worker
END
        pgrep -f -- "--name $name" >/dev/null || { cat "/run/churn-$name.log"; exit 1; }
    done
    ;;
check)
    status=0 kept=0
    for device in /dev/vdb:/srv/large /dev/vdc:/srv/small; do
        mountpoint -q "${device#*:}" || mount -t ext4 "${device%:*}" "${device#*:}" || status=1
    done
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
    for device in /dev/vdb:/srv/large /dev/vdc:/srv/small; do
        umount "${device#*:}" && e2fsck -fn "${device%:*}" || status=1
    done
    exit $status
    ;;
lost)
    # After an ordinary crash: how much is lost, and that there is something at all.
    lost=0
    for device in /dev/vdb:/srv/large /dev/vdc:/srv/small; do
        mountpoint -q "${device#*:}" || mount -t ext4 "${device%:*}" "${device#*:}" || exit 1
    done
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
