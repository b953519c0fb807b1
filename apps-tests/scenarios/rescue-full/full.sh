#!/bin/sh
# The rescue area is a file on the root file system; /srv/full has less room in the successor than it had, /srv/read is only read there.
set -eu

. /opt/says.sh
. /opt/counter.sh
sums=/var/sums

# Writes a file that no disk has yet, and what must be in it.
put() {
	head -c "$2" /dev/urandom >"$1"
	sha256sum "$1" >>$sums
}

case $1 in
make)
	sysctl -qw vm.dirty_expire_centisecs=100000 vm.dirty_writeback_centisecs=100000
	mkfs.ext4 -q /dev/vdb
	mkfs.ext4 -q /dev/vdc
	mkdir -p /srv/full /srv/read
	mount -o commit=900 /dev/vdb /srv/full
	mount -o commit=900 /dev/vdc /srv/read
	# Two per cent that nobody gets, which every mount sets anew: as if somebody had taken them.
	echo 0 >/sys/fs/ext4/vdb/reserved_clusters
	head -c 1000000 /dev/zero >/srv/full/free
	yes old | head -c 300000 >/srv/full/changed
	for name in changed held touched; do yes old | head -c 300000 >/srv/read/$name; done
	sync
	dd if=/dev/zero of=/srv/full/rest bs=64k 2>/dev/null || true
	sync
	orthros-ctl rescue-area --prepare /var/lib/orthros/rescue --size 32M
	;;
hold)
	exec 3</srv/read/held
	echo $$ >/var/held.pid
	while sleep 1; do :; done
	;;
count)
	count
	;;
write)
	rm /srv/full/free
	sync /srv/full/rest
	put /srv/full/1 400001
	put /srv/full/2 400001
	put /srv/read/new 1000001
	for file in full/changed read/changed read/held read/touched; do
		yes new | head -c 200000 | dd of=/srv/$file conv=notrunc status=none
		sha256sum /srv/$file >>$sums
	done
	sed -i /touched/d $sums
	mount -o remount,bind,ro /srv/read
	sync $sums /var
	remember_count
	;;
check)
	counts_on
	fails kill -0 "$(cat /var/held.pid)" 2>/dev/null
	orthros-ctl report | tee /run/report
	grep -E "fd 3: /srv/read/held: .*Read-only file system" /run/report
	grep -E "file system on vdb has not taken [12] files: [0-9]+ pages are in the rescue area" /run/report
	grep -E "file system on vdc has not taken 4 files: [0-9]+ pages are in the rescue area" /run/report
	# What needs no room is there already.
	grep "full/changed" $sums | sha256sum -c
	fails sha256sum -c --quiet $sums 2>/dev/null
	says "its file system .* is not mounted for writing|not mounted for writing" orthros-ctl rescue
	grep "has no room for its" /run/said
	grep "the area is kept" /run/said
	# One of them can be written to, and somebody has.
	mount -o remount,rw /srv/read
	echo later >/srv/read/touched
	says "touched: was changed after the failure" orthros-ctl rescue
	cat /run/said
	grep "the area is kept" /run/said
	grep "/srv/read/" $sums | sha256sum -c
	rm /srv/full/rest
	sync
	sha256sum /dev/vdb >/run/disk
	says "touched: was changed after the failure" orthros-ctl rescue --dry-run
	sha256sum -c /run/disk
	says "touched: was changed after the failure" orthros-ctl rescue
	cat /run/said
	grep "3 files have it already" /run/said
	sha256sum -c $sums
	grep -qx later /srv/read/touched
	orthros-ctl rescue | grep "nothing to put back"
	lsattr /var/lib/orthros/rescue | grep -q "^[^ ]*i"
	orthros-ctl status | grep "rescue area: *32 MB on /var/lib/orthros/rescue$"
	umount /srv/full /srv/read
	e2fsck -fn /dev/vdb
	e2fsck -fn /dev/vdc
	;;
esac
