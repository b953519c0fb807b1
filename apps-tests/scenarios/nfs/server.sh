# What is done in the guest of the scenario, and how it is judged.
set -eu
box=/usr/lib/orthros-tests/busybox

case $1 in
prepare)
	$box ip link set lo up
	$box ip link set eth0 up
	$box ip addr add 10.0.2.15/24 dev eth0
	$box ip route add default via 10.0.2.2
	mkdir -p /srv/nfs
	systemctl start nfs-server.service
	;;
ready)
	exportfs -v | grep -q /srv/nfs
	[ "$(cat /proc/fs/nfsd/threads)" = 4 ]
	;;
verdict)
	# The client has written what each file must be.
	cd /srv/nfs
	sha256sum --check --quiet sums
	echo "$(wc -l <sums) files are as the client wrote them"
	;;
esac
