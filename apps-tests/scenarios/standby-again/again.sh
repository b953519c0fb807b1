# again.sh run MEGABYTES: three kinds of work that check themselves, until the machine ends.
# again.sh check: waits until the next standby sleeps, and looks at what the last failover has left.
# again.sh judge N [KERNELS]: after N failovers; so many kernels (1) took turns.
state=/var/lib/again
number() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" | head -n 1; }

case $1 in
run)
	# The products need most of the time, and one must come to its end.
	nice -n 15 /opt/orthros-tests/checksum-worker --threads 8 --megabytes "$2" --status $state/worker &
	while :; do
		python3 /opt/products.py $state/product
		cmp $state/product $state/product.expected >>$state/wrong 2>&1 || echo "a product is wrong" >>$state/wrong
		echo product >>$state/rounds
	done &
	while :; do
		nice -n 10 sh /opt/pipeline.sh >$state/pipeline
		cmp $state/pipeline $state/pipeline.expected >>$state/wrong 2>&1 || echo "a pipeline is wrong" >>$state/wrong
		echo pipeline >>$state/rounds
	done
	;;
check)
	report=$(orthros-ctl report --json)
	failovers=$(orthros-ctl status --json | number failovers)
	# The instant of the last process's first instruction, and when the machine would have survived the next failure.
	resumed=$(echo "$report" | number all_resumed)
	armed=$(echo "$report" | number armed)
	# Ten times of what a machine that is not emulated may take.
	[ $((armed - resumed)) -lt 20000000000 ] || { echo "armed $((armed - resumed)) ns after the processes resumed"; exit 1; }
	if [ "$2" = woken ]; then
		echo "$report" | grep -q '"woken": [0-9]' || { echo "failover $failovers was not one from a standby"; exit 1; }
		until orthros-ctl status | grep -q '^standby: *asleep'; do sleep 0.3; done
		ready=$(orthros-ctl report --json | number standby_ready)
	fi
	/opt/orthros-tests/checksum-worker --failovers "$failovers" --judge $state/worker || exit 1
	if [ -s $state/wrong ]; then cat $state/wrong; exit 1; fi
	# What nobody has claimed is given back behind everybody's back.
	for second in $(seq 200); do
		! dmesg | grep -q 'frames nobody claimed are free again' || break
		sleep 1
	done
	# What must be the same after every failover.
	orthros-ctl status --json | grep -A 3 image_bytes >$state/left.$failovers
	sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo >$state/memory.$failovers
	orthros-ctl log | sed -n 's/.*watch: armed: .*, heap \([0-9]*\) bytes.*/\1/p' | tail -n 1 >$state/heap.$failovers
	cat /proc/sys/kernel/random/boot_id >>$state/boots
	standby=${ready:+, standby after $(((ready - resumed) / 1000000)) ms}
	echo "$failovers: armed after $(((armed - resumed) / 1000000)) ms$standby" >>$state/times
	# Nobody who is protected has these files open.
	sync
	;;
judge)
	# The first may differ: what was looked up for the first kernel was larger.
	kernels=${3:-1}
	for n in $(seq $((2 + kernels)) "$2"); do
		same=$((2 + (n - 2) % kernels))
		diff $state/left.$same $state/left.$n || { echo "failover $n has left something else"; exit 1; }
		# A boot may need a page more than another one; twenty pages are a leak.
		more=$(($(cat $state/memory.$n) - $(cat $state/memory.$same)))
		[ "${more#-}" -lt 80 ] || { echo "MemTotal differs by $more kB after failover $n"; exit 1; }
		# Some texts are longer than others.
		more=$(($(cat $state/heap.$n) - $(cat $state/heap.$same)))
		[ "${more#-}" -lt 4096 ] || { echo "the backup OS uses $more bytes more after failover $n"; exit 1; }
	done
	[ "$(sort -u $state/boots | wc -l)" = "$2" ] || { echo "two kernels have the same boot id"; exit 1; }
	# What is finished now was under way during some failover at least.
	for kind in product pipeline; do
		for second in $(seq 200); do
			! grep -q $kind $state/rounds || break
			sleep 1
		done
		grep -q $kind $state/rounds || { echo "no $kind was finished"; exit 1; }
	done
	if [ -s $state/wrong ]; then cat $state/wrong; exit 1; fi
	cat $state/times $state/left.$2 $state/memory.$2 $state/heap.$2
	;;
esac
