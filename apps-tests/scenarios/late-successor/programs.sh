#!/bin/sh
# Memory that checks itself, a writer whose data is not synced, a pipeline: what a successor that fails late must not cost.
# programs.sh start MEGABYTES [MEGABYTES] | ready | judge [large]
set -eu
# The programs start others from a process of their own: a parent that waits for one that borrows its memory (vfork) is lost.
worker=/opt/orthros-tests/checksum-worker
# Two failures close to each other can look like one.
judge_worker() {
	"$worker" --failovers 1 --judge "$1" || { [ "${FAILOVERS:-1}" = 2 ] && "$worker" --failovers 2 --judge "$1"; }
}
case $1 in
start)
	"$worker" --threads 2 --megabytes "$2" --status /var/lib/worker &
	[ $# = 2 ] || "$worker" --threads 2 --megabytes "$3" --status /var/lib/large &
	# A line in the file before the next one begins; never synced. The file grows past what the journal knows.
	sh -c 'n=0; exec 3>/var/lib/lines; while :; do n=$((n + 1)); echo "line $n" >&3; (exec sleep 0.02); done' &
	# A deleted file, and one that has had its name for less than the journal knows; both are held, and never synced.
	sh -c 'exec 3<>/var/lib/gone 4>/var/lib/young.tmp; seq 1 50000 >&3; seq 1 50000 >&4; rm /var/lib/gone; mv /var/lib/young.tmp /var/lib/young
		while sum=$(md5sum <"/proc/$$/fd/3"); do
			[ "$sum" = "$(seq 1 50000 | md5sum)" ] || echo "the deleted file is another" >/var/lib/torn
			(exec date +%s >/var/lib/looked.new); (exec mv /var/lib/looked.new /var/lib/looked)
			(exec sleep 0.5)
		done
		echo "the deleted file cannot be read" >/var/lib/torn' &
	sh -c 'n=0; seq 1 100000000 | while read -r line; do n=$((n + 1)); [ "$line" = $n ] || { echo "line $n is $line" >/var/lib/torn; exit 1; }; [ $((n % 500)) != 0 ] || echo $n >/var/lib/piped; done' &
	wait
	;;
ready)
	grep -q phase=steady /var/lib/worker && [ -s /var/lib/looked ] && [ -s /var/lib/piped ] && [ "$(wc -l </var/lib/lines)" -gt 20 ]
	;;
judge)
	judge_worker /var/lib/worker
	# What had not got its memory yet is whole or refused by name.
	if [ $# = 2 ]; then
		if [ "$(pidof checksum-worker | wc -w)" = 2 ]; then
			echo "the large one lives"
			judge_worker /var/lib/large
		else
			orthros-ctl report | tee /dev/stderr | grep 'memory that another part of the kernel watches'
		fi
	fi
	seq 1 50000 | cmp - /var/lib/young
	# Both go on, and no line is missing or twice.
	before=$(wc -l </var/lib/lines) piped=$(cat /var/lib/piped)
	sleep 3
	after=$(wc -l </var/lib/lines)
	[ "$after" -gt "$before" ] || { echo "the writer stands at $after"; exit 1; }
	i=0
	until [ "$(cat /var/lib/piped)" != "$piped" ]; do
		i=$((i + 1))
		[ $i -lt 60 ] || { echo "the pipeline stands at $piped"; exit 1; }
		sleep 1
	done
	[ $(($(date +%s) - $(cat /var/lib/looked))) -lt 30 ] || { echo "nobody looks at the deleted file"; exit 1; }
	[ ! -e /var/lib/torn ] || { cat /var/lib/torn; exit 1; }
	head -n "$after" /var/lib/lines | awk '$0 != "line " NR { print "line " NR " is: " $0; exit 1 }'
	! find /var/lib /dev/shm -name '*.orthros-*' | grep .
	;;
esac
