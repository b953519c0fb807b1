#!/bin/sh
# Volumes of LVM over two disks, in pieces and in stripes, each with a file system.
set -e
case $1 in
make)
    pvcreate -q /dev/vdb /dev/vdc
    vgcreate -q vg /dev/vdb /dev/vdc
    # Over both disks, in an order that is not theirs.
    lvcreate -q -y -Zn -Wn -n data -l 20 vg /dev/vdc
    lvextend -q -l +30 vg/data /dev/vdb
    lvextend -q -l +14 vg/data /dev/vdc
    lvcreate -q -y -Zn -Wn --type striped -i 2 -n stripes -L 24M vg
    # No udev runs here.
    dmsetup mknodes
    for volume in data stripes; do
        mkfs.ext4 -q /dev/mapper/vg-$volume
        mkdir -p /srv/$volume
        mount -o commit=900 /dev/mapper/vg-$volume /srv/$volume
    done
    sysctl -qw vm.dirty_expire_centisecs=100000 vm.dirty_writeback_centisecs=100000
    ;;
count)
    exec 3>/srv/data/held 4>/srv/stripes/held
    echo $$ >/var/count
    number=0
    while sleep 0.5 3>&- 4>&-; do number=$((number + 1)) && echo $number >&3 && echo $number >&4; done
    ;;
write)
    # Across all parts, and names that no commit has.
    for number in 1 2 3 4 5 6 7 8; do head -c 20000000 /dev/urandom >/srv/data/$number; done
    head -c 10000000 /dev/urandom >/srv/stripes/1
    mkdir /srv/data/new && echo new >/srv/data/new/file
    (cd /srv && sha256sum data/[1-8] data/new/file stripes/1) >/var/sums
    tail -n 1 /srv/data/held >/var/held
    sync /var/sums /var/held /var
    ;;
check)
    dmsetup table vg-data
    test "$(dmsetup table vg-data | wc -l)" = 3
    dmsetup table vg-stripes | grep ' striped 2 '
    (cd /srv && sha256sum --quiet -c /var/sums)
    kill -0 "$(cat /var/count)"
    sleep 2
    for volume in data stripes; do
        mountpoint /srv/$volume
        test "$(tail -n 1 /srv/$volume/held)" -gt "$(cat /var/held)"
        awk 'NR != $1 { exit 1 }' /srv/$volume/held
    done
    orthros-ctl report | grep 'ile system on dm-0: transaction'
    # LVM finds its volumes as it left them.
    lvs --noheadings -o lv_name,lv_active,lv_device_open vg
    test "$(lvs --noheadings -o lv_active,lv_device_open vg | grep -cE '^ *active +open')" = 2
    kill "$(cat /var/count)"
    while kill -0 "$(cat /var/count)" 2>/dev/null; do sleep 0.1; done
    for volume in data stripes; do
        umount /srv/$volume
        e2fsck -fn /dev/mapper/vg-$volume
    done
    vgchange -q -an vg
    ;;
esac
