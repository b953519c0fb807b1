#!/bin/sh
# The rescue area is a file on the root file system; the disks of /srv/ext4 and /srv/xfs take no writes in the successor until it is armed.
set -eu

. /opt/says.sh
. /opt/counter.sh
sums=/var/sums

case $1 in
make)
	sysctl -qw vm.dirty_expire_centisecs=100000 vm.dirty_writeback_centisecs=100000
	mkfs.ext4 -q /dev/vdb
	mkfs.xfs -q /dev/vdc
	for type in ext4 xfs; do
		mkdir -p /srv/$type
	done
	mount -o commit=900 /dev/vdb /srv/ext4
	mount /dev/vdc /srv/xfs
	for type in ext4 xfs; do
		mkdir /srv/$type/dir
		for name in changed held; do yes old | head -c 300000 >/srv/$type/dir/$name; done
		echo old >/srv/$type/gone
	done
	sync
	orthros-ctl rescue-area --prepare /var/lib/orthros/rescue --size 32M
	;;
hold)
	exec 3</srv/ext4/dir/held 4</srv/xfs/dir/held
	echo $$ >/var/held.pid
	while sleep 1; do :; done
	;;
count)
	count
	;;
write)
	for type in ext4 xfs; do
		mkdir /srv/$type/made
		head -c 1000001 /dev/urandom >/srv/$type/made/new
		for name in changed held; do
			yes new | head -c 200000 | dd of=/srv/$type/dir/$name conv=notrunc status=none
		done
		rm /srv/$type/gone
		mv /srv/$type/dir/changed /srv/$type/dir/moved
		(cd / && sha256sum srv/$type/made/new srv/$type/dir/held srv/$type/dir/moved) >>$sums
	done
	sync $sums /var
	remember_count
	;;
check)
	counts_on
	fails kill -0 "$(cat /var/held.pid)" 2>/dev/null
	orthros-ctl report >/run/report
	grep -E "file system on vdb.*rescue area" /run/report
	grep -E "file system on vdc.*rescue area" /run/report
	# The disks take writes again. What the journal of the one has not must be in it before anybody replays it.
	fails mountpoint -q /srv/ext4
	fails mountpoint -q /srv/xfs
	mount /dev/vdc /srv/xfs
	orthros-ctl rescue
	mount /dev/vdb /srv/ext4
	(cd / && sha256sum -c $sums)
	for type in ext4 xfs; do
		fails test -e /srv/$type/gone
		fails test -e /srv/$type/dir/changed
		umount /srv/$type
	done
	e2fsck -fn /dev/vdb
	xfs_repair -n /dev/vdc
	;;
esac
