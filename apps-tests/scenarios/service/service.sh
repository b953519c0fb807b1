# What is done in the guest of the scenario, and how it is judged.
set -eu
box=/usr/lib/orthros-tests/busybox
# Ids of the services' main processes, as they were before the failure.
pids=/var/lib/main-pids
main() { systemctl show --property MainPID --value "$1"; }

case $1 in
prepare)
	$box ip link set lo up
	$box ip link set eth0 up
	$box ip addr add 10.0.2.15/24 dev eth0
	$box ip route add default via 10.0.2.2
	systemctl start ticker.service lighttpd.service
	orthros-ctl protect --unit ticker.service
	echo "$(main lighttpd.service) $(main ticker.service)" >$pids
	;;
ready)
	$box wget -q -O /dev/null http://127.0.0.1/index.lighttpd.html
	;;
verdict)
	read -r web ticker <$pids
	for service in lighttpd.service ticker.service; do
		systemctl is-active $service
	done
	[ "$(main lighttpd.service)" = "$web" ] || { echo "lighttpd: $(main lighttpd.service), was $web"; exit 1; }
	[ "$(main ticker.service)" = "$ticker" ] || { echo "ticker: $(main ticker.service), was $ticker"; exit 1; }
	[ "$(pidof lighttpd)" = "$web" ] || { echo "started again: $(pidof lighttpd)"; exit 1; }
	grep -q lighttpd.service /proc/$web/cgroup
	# Every number from the first in the new journal on, none twice.
	sleep 2
	journalctl --boot --unit ticker.service --output cat | sed -n 's/^tick //p' >/var/lib/ticks
	first=$(head -n 1 /var/lib/ticks) last=$(tail -n 1 /var/lib/ticks)
	seq "$first" "$last" | cmp - /var/lib/ticks || { head -n 3 /var/lib/ticks; exit 1; }
	echo "ticks $first to $last"
	# The connection of the client goes on for some seconds before the server is stopped.
	systemctl stop ticker.service
	! kill -0 "$ticker" 2>/dev/null || { echo "ticker is not stopped"; exit 1; }
	[ "$(systemctl is-active ticker.service)" = inactive ]
	;;
esac
