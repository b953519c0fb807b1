#!/bin/sh
# Keeps compilers, disk and network of a machine busy.
# usage: load.sh start | works | judge
set -eu
busybox=/usr/lib/orthros-tests/busybox
state=/run/load

# Counts in the file $1 how often the command after it has succeeded; says so if it fails.
forever() {
	count=0
	name=$1
	shift
	while "$@" >"$state/$name.log" 2>&1; do
		count=$((count + 1))
		echo $count >"$state/$name.new"
		mv "$state/$name.new" "$state/$name"
	done
	echo "$name: failed: $*" >>"$state/failed"
}

compile() {
	gcc -O3 -o /var/tmp/work /opt/work.c && /var/tmp/work
}

disk() {
	dd if=/dev/urandom of=/var/tmp/content bs=1M count=32 conv=fsync && cp /var/tmp/content /var/tmp/copy && sync &&
		cmp /var/tmp/content /var/tmp/copy
}

case $1 in
start)
	mkdir -p $state /run/www
	dd if=/dev/urandom of=/run/www/content bs=1M count=8
	$busybox httpd -p 8080 -h /run/www
	for work in compile disk; do
		forever $work $work </dev/null >/dev/null 2>&1 &
	done
	;;
works)
	[ -s $state/compile ] && [ -s $state/disk ]
	;;
judge)
	for work in compile disk; do
		echo "$work: $(cat $state/$work) times"
	done
	[ ! -e $state/failed ] || {
		cat $state/failed
		exit 1
	}
	# Nobody has taken over, and whoever would be needed is there.
	orthros-ctl status | grep -x 'state: *armed'
	;;
esac
