#!/bin/sh
# /dev/vdb is a file system on which nothing is committed by itself, /dev/vdc the rescue area.
set -eu

. /opt/says.sh
# gone: what an ordinary crash has lost.
lost() { echo "$1 is there without a rescue" >&2; exit 1; }

case $1 in
prepare)
	sysctl -qw vm.dirty_expire_centisecs=100000 vm.dirty_writeback_centisecs=100000
	mkfs.ext4 -q /dev/vdb
	says "ext2, ext3 or ext4" orthros-ctl rescue-area --prepare /dev/vdb
	mkdir /data
	mount -o commit=900 /dev/vdb /data
	mkdir /data/from /data/to
	yes old | head -c 300000 >/data/changed
	echo first >/data/appended
	echo moved >/data/from/name
	echo going >/data/removed
	yes page | head -c 100000 >/data/damaged
	yes page | head -c 5000 >/data/touched
	sync
	says "it is in use" orthros-ctl rescue-area --prepare --force /dev/vdb
	says "no rescue area" orthros-ctl rescue-area /dev/vdc
	orthros-ctl status | grep "rescue area: *none"
	orthros-ctl rescue-area --prepare /dev/vdc
	orthros-ctl status | grep "rescue area: *64 MB on /dev/vdc"
	# It can be named anew without being made anew.
	orthros-ctl rescue-area off
	orthros-ctl rescue-area auto
	orthros-ctl rescue-area --json | grep '"bytes": 67108864'
	orthros-ctl rescue /dev/vdc | grep "nothing to put back"
	;;
write)
	cd /data
	yes new | head -c 200000 | dd of=changed conv=notrunc status=none
	echo second >>appended
	yes made | head -c 50001 >made
	mkdir deep
	echo in >deep/file
	chmod 640 deep/file
	mv from/name to/name
	rm removed
	yes DAMAGED-MARK | dd of=damaged bs=100000 count=1 iflag=fullblock conv=notrunc status=none
	yes other | head -c 5000 >touched
	sha256sum changed appended made deep/file to/name damaged >/var/sums
	sync /var/sums /var
	;;
overwrite)
	yes somebody | dd of=/dev/vdc bs=1M count=64 iflag=fullblock conv=fsync status=none
	sha256sum /dev/vdc >/var/disk
	sync /var/disk /var
	;;
check-refused)
	orthros-ctl report | grep "the rescue area was not written: it is no rescue area"
	sha256sum -c /var/disk
	says "no rescue area is there" orthros-ctl rescue
	;;
check-late)
	mkdir -p /data
	mount /dev/vdb /data
	cd /data
	says "inode [0-9]+ of .*: is not there any more" orthros-ctl rescue
	cat /run/said
	grep -E "^(changed|damaged)|  (changed|damaged)$" /var/sums | sha256sum -c
	grep "refused: inode .*: its blocks were not committed" /run/said
	cd /
	umount /data
	e2fsck -fn /dev/vdb
	;;
check)
	mkdir -p /data
	mount /dev/vdb /data
	cd /data
	! test -e made || lost made
	! test -e deep || lost deep
	! grep -q second appended || lost appended
	! grep -q new changed || lost changed
	test -e removed || lost removed
	# Somebody changes a file.
	echo later >touched
	orthros-ctl rescue --list
	# A byte of a page is not what it was.
	at=$(grep -abo DAMAGED-MARK /dev/vdc | sed -n 's/:.*//;100p')
	flip() { printf "$1" | dd of=/dev/vdc bs=1 seek=$at conv=notrunc status=none; }
	flip X
	says "/data/damaged: .*a page of a file in the rescue area is damaged" orthros-ctl rescue --dry-run
	flip D
	says "/data/touched: was changed after the failure" orthros-ctl rescue
	cat /run/said
	sha256sum -c /var/sums
	fails test -e removed
	fails test -e from/name
	test "$(stat -c %a deep/file)" = 640
	grep -qx later touched
	orthros-ctl rescue | grep "nothing to put back"
	cd /
	umount /data
	e2fsck -fn /dev/vdb
	;;
esac
