# What is done in the guest of the scenario, and how it is judged.
set -eu

case $1 in
prepare)
	systemctl enable --now systemd-networkd.service
	mkdir -p /srv/nfs
	systemctl enable --now nfs-server.service
	systemctl start kept.service
	;;
ready)
	exportfs -v | grep -q /srv/nfs
	[ "$(cat /proc/fs/nfsd/threads)" = 4 ]
	;;
verdict)
	# The client writes what each file must be when it is through.
	cd /srv/nfs
	for try in $(seq 240); do
		! sha256sum --check --status sums 2>/dev/null || break
		sleep 1
	done
	sha256sum --check --quiet sums
	echo "$(wc -l <sums) files are as the client wrote them"
	;;
esac
