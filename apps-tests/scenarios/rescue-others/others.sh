#!/bin/sh
# /dev/vdb is an XFS, /dev/vdc a btrfs with a subvolume that is mounted and one below it, /dev/vdd a vfat, on all of which nothing is
# committed by itself; /dev/vde is the rescue area.
set -eu

. /opt/says.sh
sums=/var/sums
# Where files are changed.
all="/srv/xfs/d /srv/btrfs/d /srv/btrfs/below/d"

mount_all() {
	mkdir -p /srv/xfs /srv/btrfs /srv/vfat
	mount /dev/vdb /srv/xfs
	mount -o commit=900,subvol=@ /dev/vdc /srv/btrfs
	mount /dev/vdd /srv/vfat
}

name() { basename $(dirname $1); }

# Everything about a tree but times of directories, which whoever looks may see changed.
tell() {
	(
		cd "$1"
		find . ! -name touched-mode -printf '%p %y %m %U:%G %n %l\n' | LC_ALL=C sort
		find . -type f ! -name 'touched*' -printf '%p %s %T@\n' | LC_ALL=C sort
		find . -type f ! -name 'touched*' -exec sha256sum {} + | LC_ALL=C sort -k 2
		find . -type f | LC_ALL=C sort | xargs getfattr -d 2>/dev/null
		stat -c '%a %s %Y' ../beside
		sha256sum ../beside
	)
}

# gone: what an ordinary crash has lost.
lost() { echo "$1 is there without a rescue" >&2; exit 1; }

case $1 in
prepare)
	sysctl -qw vm.dirty_expire_centisecs=100000 vm.dirty_writeback_centisecs=100000 fs.xfs.xfssyncd_centisecs=720000
	mkfs.xfs -q /dev/vdb
	mkfs.btrfs -q /dev/vdc
	mkdir -p /srv/top
	mount /dev/vdc /srv/top
	btrfs -q subvolume create /srv/top/@
	umount /srv/top
	mkfs.vfat /dev/vdd
	orthros-ctl rescue-area --prepare /dev/vde
	mount_all
	btrfs -q subvolume create /srv/btrfs/below
	mkdir $all
	for at in $all; do
		cd $at
		mkdir from to deleted
		yes old | head -c 300000 >changed
		yes old | head -c 300000 >mapped
		yes old | head -c 300000 >cut
		echo first >appended
		echo moved >from/name
		echo going >removed
		echo going >removed-late
		echo going >deleted/file
		echo linked >linked
		for name in touched touched-mode; do yes page | head -c 5000 >$name; done
		ln -s nowhere link
		echo before >../beside
		sync
		# What was written last is read back from the disk and not in memory.
		echo 1 >/proc/sys/vm/drop_caches
	done
	echo before >/srv/vfat/file
	sync
	;;
write)
	for at in $all; do
		cd $at
		yes new | head -c 200000 | dd of=changed conv=notrunc status=none
		yes map | head -c 8192 | dd of=mapped bs=4096 seek=3 conv=notrunc status=none
		truncate -s 100001 cut
		echo second >>appended
		yes made | head -c 50001 >made
		head -c 3000001 /dev/urandom >large
		echo small >small
		mkdir -p deep/er
		echo in >deep/er/file
		chmod 640 deep/er/file
		chown 7:8 deep/er
		setfattr -n user.color -v green appended
		setfattr -n user.color -v red made
		mv from/name to/name
		mv link from/link
		ln linked to/other
		rm removed removed-late
		rm -r deleted
		mkfifo to/fifo
		yes other | head -c 5000 >touched
		chmod 600 touched-mode
		# In a directory that does not change.
		yes beside | head -c 5001 >../beside
		chmod 600 ../beside
		tell $at >/var/told-$(name $at)
	done
	yes other | head -c 5000 >/srv/vfat/file
	sync /var/told-xfs /var/told-btrfs /var/told-below /var
	;;
check)
	mount_all
	for at in $all; do
		cd $at
		! test -e made || lost made
		! test -e deep || lost deep
		! grep -q second appended || lost appended
		! grep -q new changed || lost changed
		! grep -q beside ../beside || lost beside
		test -e removed || lost removed
		# Somebody changes a file, one that had been removed, and a mode.
		echo later >touched
		echo later >>removed-late
		chmod 604 touched-mode
		# And makes some, which may be given numbers of files that are not there yet.
		mkdir ../other
		for number in $(seq 40); do echo $number >../other/$number; done
		sha256sum ../other/* >/run/other-$(name $at)
		ls -i ../other
		sync
	done
	orthros-ctl rescue --list
	says "was changed after the failure" orthros-ctl rescue
	cat /run/said
	for at in $all; do
		grep "refused: $at/touched: was changed after the failure" /run/said
		grep "refused: attributes of $at/touched-mode: was changed after the failure" /run/said
		grep "refused: $(dirname $at)/.orthros-displaced-0: has what was removed or moved last" /run/said
	done
	test "$(grep -c "^refused: " /run/said)" = 10
	# Nothing that was mounted for it stays.
	fails test -e /run/orthros-subvolumes
	fails grep orthros-subvolumes /proc/mounts
	grep "refused: file system on vdd: .*vfat; its disk is behind in [1-9][0-9]* files" /run/said
	orthros-ctl rescue | grep "nothing to put back"
	for at in $all; do
		cd $at
		grep -qx later touched
		test "$(stat -c %a touched-mode)" = 604
		sha256sum --quiet -c /run/other-$(name $at)
		# What was removed, and changed by somebody then, is kept beside.
		fails test -e removed
		fails test -e removed-late
		grep -qrx later ../.orthros-displaced-0
		# Names that were moved lead there, too.
		rm -r ../.orthros-displaced-0
		tell $at >/run/told
		diff /var/told-$(name $at) /run/told
	done
	cd /
	umount /srv/xfs /srv/btrfs /srv/vfat
	xfs_repair -n /dev/vdb
	btrfs check /dev/vdc
	;;
esac
