#!/bin/sh
# /data and /idle are file systems in files, on loop devices, which no successor sets up; /dev/vdb is the rescue area.
set -eu

. /opt/says.sh

attach() {
	losetup /dev/loop0 /var/data.img
	losetup /dev/loop1 /var/idle.img
}

# set_up: both are mounted, with files that their disks have.
set_up() {
	sysctl -qw vm.dirty_expire_centisecs=100000 vm.dirty_writeback_centisecs=100000
	mkdir -p /data /idle
	attach
	mount -o commit=900 /dev/loop0 /data
	mount -o commit=900,noatime /dev/loop1 /idle
}

make() {
	mkdir -p /data/from /data/to
	yes old | head -c 300000 >/data/changed
	echo first >/data/appended
	echo moved >/data/from/name
	echo going >/data/removed
	yes old | head -c 300000 >/idle/kept
	sync
}

write() {
	cd /data
	yes new | head -c 200000 | dd of=changed conv=notrunc status=none
	echo second >>appended
	yes made | head -c 5000001 >made
	mkdir deep
	echo in >deep/file
	chmod 640 deep/file
	mv from/name to/name
	rm removed
	# The file has what its disk has not, and the journal nothing: overwritten blocks do not go with a commit.
	cd /idle
	yes new | head -c 100000 | dd of=kept conv=notrunc status=none
	: >other
	sync other
	cd /
	(cd /data && sha256sum changed appended made deep/file to/name) >/var/sums
	(cd /idle && sha256sum kept) >/var/idle-sums
	sync /var/sums /var/idle-sums /var
}

case $1 in
prepare)
	truncate -s 64M /var/data.img /var/idle.img
	mkfs.ext4 -q /var/data.img
	mkfs.ext4 -q /var/idle.img
	set_up
	make
	;;
write)
	write
	;;
unnamed)
	# Nobody has named an area: the report says so, and how to.
	orthros-ctl report | tee /run/report
	grep -E "file system on loop0 is not mounted: [0-9]+ files .* lost: no rescue area is named .*rescue-area --prepare" /run/report
	;;
again)
	mkfs.ext4 -q -F /var/data.img
	mkfs.ext4 -q -F /var/idle.img
	set_up
	make
	orthros-ctl rescue-area --prepare /dev/vdb
	write
	;;
back)
	orthros-ctl report | tee /run/report
	grep -E "file system on loop0 is not mounted: [0-9]+ files .*: [0-9]+ pages are in the rescue area" /run/report
	orthros-ctl status | grep "holds files that nobody has put back"
	# Without the disk nothing is put back, and nothing is given up.
	says "has not appeared" orthros-ctl rescue
	orthros-ctl rescue-area --json | grep '"holds_files": true'
	;;
check)
	attach
	sha256sum /var/data.img >/run/image
	orthros-ctl rescue --dry-run
	sync
	sha256sum -c /run/image
	orthros-ctl rescue
	orthros-ctl rescue | grep "nothing to put back"
	fails grep orthros-rescue /proc/self/mountinfo
	mount /dev/loop0 /data
	mount /dev/loop1 /idle
	(cd /data && sha256sum -c /var/sums)
	(cd /idle && sha256sum -c /var/idle-sums)
	fails test -e /data/removed
	fails test -e /data/from/name
	test "$(stat -c %a /data/deep/file)" = 640
	umount /data /idle
	e2fsck -fn /dev/loop0
	e2fsck -fn /dev/loop1
	;;
esac
