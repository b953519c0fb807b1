# What is done in the guest of the scenario, and how it is judged.
set -eu
count=/var/lib/private.count
# What the service's processes showed before the failure.
before=/var/lib/private.before
main() { systemctl show --property MainPID --value private.service; }
inside() { nsenter --target $(main) --net "$@"; }

# The network of the processes as it can be seen.
shown() {
	for pid in $(cat /sys/fs/cgroup/system.slice/private.service/cgroup.procs); do
		echo "process $pid $(cat /proc/$pid/comm)"
		[ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/$(main)/ns/net)" ]
		[ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/1/ns/net)" ]
	done
	cut -d: -f1 /proc/$(main)/net/dev
	cat /proc/$(main)/net/fib_trie /proc/$(main)/net/if_inet6
	# Listening, and connected to each other: addresses, states, users, inodes aside.
	sed -E 's/^ *[0-9]+: ([0-9A-F:]+ [0-9A-F:]+ [0-9A-F]+) .*/\1/' /proc/$(main)/net/tcp | sort
	cat /proc/sys/net/ipv4/ip_default_ttl
	inside cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_local_port_range
}

case $1 in
run)
	echo 77 >/proc/sys/net/ipv4/ip_default_ttl
	redis-server --bind 127.0.0.1 --port 6379 --save '' --dir /tmp &
	exec perl /opt/client.pl $count
	;;
prepare)
	systemctl disable --now redis-server.service
	systemctl daemon-reload
	systemctl start private.service
	;;
ready)
	[ "$(cat $count)" -gt 100 ]
	for pid in $(cat /sys/fs/cgroup/system.slice/private.service/cgroup.procs); do orthros-ctl check $pid; done
	shown >$before
	[ "$(grep -c '^process' $before)" = 2 ]
	;;
verdict)
	systemctl is-active private.service
	shown >$before.now || { cat $before.now; exit 1; }
	diff $before $before.now
	# The client goes on over the connection that it had.
	then=$(cat $count)
	sleep 2
	[ "$(cat $count)" -gt $then ]
	# Whoever comes new finds the server in there, and nobody outside.
	[ "$(inside redis-cli ping)" = PONG ]
	! redis-cli ping || { echo "the server is not alone"; exit 1; }
	failed=$(systemctl list-units --plain --no-legend --failed)
	echo "$failed"
	[ -z "$failed" ]
	;;
esac
