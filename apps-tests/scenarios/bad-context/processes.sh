#!/bin/sh
# start: processes that can be restored, and some that cannot. judge: what the report must say of each.
set -eu
box=/usr/lib/orthros-tests/busybox
list=/var/lib/processes

start() {
	rm -f $list.*
	# Enough records for more than the 64 KB that the injection leaves.
	for n in $(seq 60); do
		exec_sleep plain
	done
	# A file of a file system that the next kernel cannot mount: its superblock is gone.
	$box mke2fs -q /dev/vdb
	mkdir -p /mnt
	mount -t ext4 /dev/vdb /mnt
	echo kept >/mnt/held
	sync
	exec_sleep gone 3</mnt/held
	dd if=/dev/zero of=/dev/vdb bs=4k count=64 oflag=direct conv=notrunc status=none
	# Ids among those of kernel threads: the next kernel gives them to threads of its own.
	for id in $(seq 3 150); do
		[ -e /proc/$id ] || echo $id
	done | head -n 8 >$list.ids
	while read -r id; do
		echo $((id - 1)) >/proc/sys/kernel/ns_last_pid
		exec_sleep low
	done <$list.ids
	echo 3000 >/proc/sys/kernel/ns_last_pid
	sync
	touch $list.started
}

# exec_sleep GROUP: a process, noted in its group
exec_sleep() {
	sleep infinity &
	echo $! >>$list.$1
}

# is_named PID: the report says why it is not there
is_named() { orthros-ctl report | grep -E "^  $1 sleep: (not kept|could not be restored)" -A 1; }
runs() { [ "$(cat /proc/$1/comm 2>/dev/null)" = sleep ]; }

judge_whole() {
	while read -r pid; do
		runs $pid || { echo "$pid is lost"; exit 1; }
	done <$list.plain
	read -r pid <$list.gone
	! runs $pid || { echo "$pid is not lost"; exit 1; }
	is_named $pid | grep /mnt/held
	lost=0
	while read -r pid; do
		runs $pid && continue
		is_named $pid | grep -E "id $pid: "
		lost=$((lost + 1))
	done <$list.low
	echo "$lost of $(wc -l <$list.low) ids were taken"
	[ $lost -gt 0 ]
}

judge_small() {
	kept=0 lost=0
	while read -r pid; do
		if runs $pid; then
			kept=$((kept + 1))
		else
			is_named $pid | grep -E "Essential Context|room" >/dev/null || { echo "$pid is not named"; orthros-ctl report; exit 1; }
			lost=$((lost + 1))
		fi
	done <$list.plain
	echo "$kept kept, $lost named as lost"
	[ $kept -gt 0 ] && [ $lost -gt 0 ]
}

case $1 in
start) start; exec sleep infinity ;;
whole) judge_whole ;;
small) judge_small ;;
*) exit 2 ;;
esac
