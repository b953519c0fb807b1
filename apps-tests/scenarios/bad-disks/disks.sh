#!/bin/sh
# Disks on each of which something is wrong, and what must have become of them.
#
# vdb goes as soon as the kernel is stopped; vdc is full; vdd is only read; vde was unmounted; vdf and vdg have one label, vdh
# and vdi one UUID; on vdj a directory is encrypted.
churn=/opt/orthros-tests/churn
sums=/var/sums
uuid=01234567-89ab-4cde-8f01-23456789abcd

# Writes a file that no disk has yet, and what must be in it.
put() {
    head -c "$2" /dev/urandom >"$1" && sha256sum "$1" >>$sums.new
}

have() {
    grep " $1" $sums | sha256sum -c --quiet
}

said() {
    orthros-ctl report | grep -E "$1" || { echo "the report does not say: $1"; status=1; }
}

# When something happened, in nanoseconds.
event() {
    orthros-ctl report | sed -n "s/^ *$1 *\([0-9 ]*\) ns .*/\1/p" | tr -d ' '
}

case $1 in
make)
    for disk in b c d e j; do mkfs.ext4 -q -F -O encrypt /dev/vd$disk || exit 1; done
    for disk in f g; do mkfs.ext4 -q -F -L same /dev/vd$disk || exit 1; done
    for disk in h i; do mkfs.ext4 -q -F -U $uuid /dev/vd$disk || exit 1; done
    for disk in b c d e f g h j; do mkdir -p /srv/vd$disk && mount -o commit=900 /dev/vd$disk /srv/vd$disk || exit 1; done
    head -c 4000000 /dev/zero >/srv/vdc/free
    dd if=/dev/zero of=/srv/vdc/full bs=64k 2>/dev/null
    mkdir /srv/vdj/secret && $churn encrypt --dir /srv/vdj/secret || exit 1
    sha256sum /dev/vdi >/var/vdi
    mkdir -p /var/bad
    sync
    ;;
write)
    for disk in b d e f g h j; do put /srv/vd$disk/file 100000 || exit 1; done
    echo secret >/srv/vdj/secret/file || exit 1
    rm /srv/vdc/free && sync /srv/vdc/full
    for number in 1 2 3; do put /srv/vdc/$number 1000001 || exit 1; done
    dd if=/dev/zero of=/srv/vdc/rest bs=64k 2>/dev/null
    sha256sum /srv/vdc/rest >>$sums.new
    mount -o remount,ro /srv/vdd && umount /srv/vde || exit 1
    sync $sums.new && mv $sums.new $sums && sync /var
    cp /var/bad/count /var/bad/count.before
    ;;
count)
    number=0
    echo $$ >/var/bad/count.pid
    while sleep 0.1; do number=$((number + 1)) && echo $number >/var/bad/count; done
    ;;
needs)
    exec 3>/srv/vdb/held
    echo $$ >/var/bad/held.pid
    while sleep 0.1; do echo line >&3; done
    ;;
check)
    status=0
    kill -0 "$(cat /var/bad/count.pid)" && sleep 1 && test "$(cat /var/bad/count)" -gt $(($(cat /var/bad/count.before) + 5)) ||
        { echo "who needed none does not live"; status=1; }
    kill -0 "$(cat /var/bad/held.pid)" 2>/dev/null && { echo "who needed the disk that has gone lives"; status=1; }
    said 'fd 3: /srv/vdb/held: '
    said ' file system on vdb: '
    said ' file system on vdh: 2 devices'
    said '  file system on vdj.*/srv/vdj/secret/file.*encrypted'
    test $(($(event files_ready) - $(event memory_added))) -lt 20000000000 || { echo "all were kept waiting"; status=1; }
    mount /dev/vde /srv/vde || status=1
    for disk in c d e f g j; do have /srv/vd$disk/ || status=1; done
    for disk in c d e f g j h; do umount /srv/vd$disk && e2fsck -fn /dev/vd$disk || status=1; done
    sha256sum -c --quiet /var/vdi || status=1
    exit $status
    ;;
esac
