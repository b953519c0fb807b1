# What is done in the guest of the scenario, and how it is judged.
set -eu
box=/usr/lib/orthros-tests/busybox
# What the server's process showed before the failure.
before=/var/lib/redis.before
main() { systemctl show --property MainPID --value redis-server.service; }

# Its ids, rights and mounts, and the machine's names as it sees them; without numbers that the kernel chooses.
shown() {
	pid=$(main)
	echo "process $pid"
	for file in uid_map gid_map projid_map setgroups; do sed "s/^/$file /" /proc/$pid/$file; done
	for namespace in user uts mnt ipc; do
		[ "$(readlink /proc/$pid/ns/$namespace)" != "$(readlink /proc/1/ns/$namespace)" ] && echo "$namespace: its own"
	done
	cat /proc/$pid/task/*/comm
	grep -hE '^(Name|Umask|[UG]id|Groups|NoNewPrivs|Seccomp|Seccomp_filters|Cap...):' /proc/$pid/task/*/status
	nsenter --target $pid --uts uname -n
	sed -E 's/^[0-9]+ [0-9]+ [0-9:]+ //; s/shared:[0-9]+/shared/; s/master:[0-9]+/master/; s/ - ([^ ]+).*/ \1/' /proc/$pid/mountinfo |
		grep -v ' autofs$\| binfmt_misc$\| fusectl$\| configfs$\| /run/credentials/' | sort
	readlink /proc/$pid/cwd
}

case $1 in
prepare)
	$box ip link set lo up
	$box ip link set eth0 up
	$box ip addr add 10.0.2.15/24 dev eth0
	$box ip route add default via 10.0.2.2
	sed -i 's/^bind .*/bind 0.0.0.0/; s/^protected-mode yes/protected-mode no/' /etc/redis/redis.conf
	systemctl restart redis-server.service
	;;
ready)
	redis-cli ping
	orthros-ctl check $(main)
	shown >$before
	;;
verdict)
	systemctl is-active redis-server.service
	shown >$before.now || { cat $before.now; exit 1; }
	diff $before $before.now
	# The machine's name is nothing it sees change, nor can change.
	hostname another
	[ "$(nsenter --target $(main) --uts uname -n)" != another ]
	# It writes its file as before.
	[ "$(redis-cli save)" = OK ]
	redis-cli dbsize
	# Nothing else that the system starts has suffered.
	failed=$(systemctl list-units --plain --no-legend --failed)
	echo "$failed"
	[ -z "$failed" ]
	;;
esac
