#!/bin/sh
# /dev/vdb is an ext4, or an XFS if that is named, on which nothing is committed by itself; the rescue area is a file on it.
set -eu

. /opt/says.sh
area=/data/orthros/rescue
kind=${2:-ext4}
options="-o commit=900"
size=48
if test $kind = xfs; then
	# More than one of its allocation groups has.
	options="" size=100
fi
# gone: what an ordinary crash has lost.
lost() { echo "$1 is there without a rescue" >&2; exit 1; }

case $1 in
prepare)
	sysctl -qw vm.dirty_expire_centisecs=100000 vm.dirty_writeback_centisecs=100000
	! test $kind = xfs || sysctl -qw fs.xfs.xfssyncd_centisecs=720000
	mkfs.$kind -q /dev/vdb
	mkdir /data
	mount $options /dev/vdb /data
	# The file lies in pieces.
	for number in 1 2 3 4 5 6; do head -c 8000000 /dev/urandom >/data/part$number; done
	sync
	rm /data/part2 /data/part4
	sync
	mkdir /data/from /data/to
	yes old | head -c 300000 >/data/changed
	echo moved >/data/from/name
	echo going >/data/removed
	yes page | head -c 5000 >/data/touched
	sync
	mkdir /run/area
	mount -t tmpfs none /run/area
	says "neither ext4 nor XFS" orthros-ctl rescue-area --prepare /run/area/rescue --size 16M
	fails test -e /run/area/rescue
	says "16 are the least" orthros-ctl rescue-area --prepare $area --size 8M
	says "there is a file" orthros-ctl rescue-area --prepare /data/changed --size 16M
	says "setting its blocks aside" orthros-ctl rescue-area --prepare $area --size 1G
	fails test -e $area
	orthros-ctl rescue-area --prepare $area --size ${size}M
	test "$(stat -c %s $area)" = $((size << 20))
	fails rm $area
	fails truncate -s 0 $area
	fails mv $area /data/other
	lsattr $area
	filefrag $area | grep -E " ([2-9]|[0-9]{2,}) extents found"
	orthros-ctl status | grep "rescue area: *$size MB on $area"
	orthros-ctl rescue-area off
	orthros-ctl status | grep "rescue area: *none"
	orthros-ctl rescue-area $area
	orthros-ctl rescue-area --json | grep "\"bytes\": $((size << 20))"
	orthros-ctl rescue $area | grep "nothing to put back"
	orthros-ctl rescue-area --remove $area
	fails test -e $area
	orthros-ctl status | grep "rescue area: *none"
	orthros-ctl rescue-area --prepare $area --size ${size}M
	;;
write)
	cd /data
	sha256sum part1 part3 part5 part6 >/var/kept
	yes new | head -c 200000 | dd of=changed conv=notrunc status=none
	yes made | head -c 50001 >made
	head -c 5000001 /dev/urandom >large
	mkdir deep
	echo in >deep/file
	chmod 640 deep/file
	mv from/name to/name
	rm removed
	yes other | head -c 5000 >touched
	sha256sum changed made large deep/file to/name >/var/sums
	sync /var/sums /var/kept /var
	;;
check)
	mkdir -p /data
	mount /dev/vdb /data
	cd /data
	# What was written below it has hit nothing else.
	sha256sum -c /var/kept
	! test -e made || lost made
	! test -e large || lost large
	! test -e deep || lost deep
	! grep -q new changed || lost changed
	echo later >touched
	orthros-ctl rescue-area $area
	orthros-ctl status | grep "holds files that nobody has put back"
	says "holds files that nobody has put back" orthros-ctl rescue-area --remove $area
	sha256sum $area >/run/area-sum
	says "/data/touched: was changed after the failure" orthros-ctl rescue --dry-run $area
	sha256sum -c /run/area-sum
	says "/data/touched: was changed after the failure" orthros-ctl rescue $area
	cat /run/said
	sha256sum -c /var/sums /var/kept
	fails test -e removed
	fails test -e from/name
	test "$(stat -c %a deep/file)" = 640
	grep -qx later touched
	orthros-ctl rescue $area | grep "nothing to put back"
	fails rm $area
	orthros-ctl rescue-area --remove $area
	fails test -e $area
	cd /
	umount /data
	case $kind in
	xfs) xfs_repair -n /dev/vdb ;;
	*) e2fsck -fn /dev/vdb ;;
	esac
	;;
esac
