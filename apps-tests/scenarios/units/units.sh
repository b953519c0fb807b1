# What is done in the guest of the scenario, and how it is judged.
set -eu
box=/usr/lib/orthros-tests/busybox
# What each service's main process showed before the failure.
before=/var/lib/units
services="apache2.service memcached.service"
main() { systemctl show --property MainPID --value "$1"; }

# What a process can see of its mounts, without numbers that the kernel chooses, and what it may.
shown() {
	pid=$(main $1)
	echo "$1 $pid"
	# Where, what of it, how, and whether it follows others; options of a file system come with that.
	sed -E 's/^[0-9]+ [0-9]+ [0-9:]+ //; s/shared:[0-9]+/shared/; s/master:[0-9]+/master/; s/ - ([^ ]+).*/ \1/' /proc/$pid/mountinfo |
		grep -v ' autofs$\| binfmt_misc$\| fusectl$\| configfs$\| /run/credentials/' | sort
	grep -E '^(NoNewPrivs|Seccomp|Seccomp_filters|Cap...):' /proc/$pid/status
	for name in /tmp /dev /home /usr /etc; do
		stat -c '%n %F %a %u %g' /proc/$pid/root$name
		nsenter --target $pid --mount sh -c "touch $name/touched 2>/dev/null && rm $name/touched && echo '$name can be written to'" || true
	done
	# The others have the kernel's own.
	[ $1 != memcached.service ] || ls -l /proc/$pid/root/dev | sed -E 's/ +[A-Z][a-z]{2} .*:[0-9]{2}//' | sort
	ls /proc/$pid/root/tmp
}

case $1 in
prepare)
	$box ip link set lo up
	$box ip link set eth0 up
	$box ip addr add 10.0.2.15/24 dev eth0
	$box ip route add default via 10.0.2.2
	sed 's/^-l .*/-l 0.0.0.0/' /etc/memcached.conf >/opt/memcached.conf
	systemctl daemon-reload
	systemctl restart $services
	for service in $services; do
		pid=$(main $service)
		nsenter --target $pid --mount sh -c 'echo private >/tmp/private'
	done
	orthros-ctl protect --unit memcached.service
	;;
ready)
	$box wget -q -O /dev/null http://127.0.0.1/
	for service in $services; do shown $service; done >$before
	;;
verdict)
	for service in $services; do
		systemctl is-active $service
		shown $service
		[ ! -e /tmp/private ] || { echo "/tmp/private is not $service's alone"; exit 1; }
	done >$before.now || { cat $before.now; exit 1; }
	{ for service in $services; do echo active; done; cat $before; } | sort >$before.a
	sort $before.now >$before.b
	diff $before.a $before.b
	# Nothing else that the system starts has suffered.
	[ -z "$(systemctl list-units --plain --no-legend --failed | tee /dev/stderr)" ]
	;;
esac
