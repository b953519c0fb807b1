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
	# The client has written what each file must be.
	cd /srv/nfs
	sha256sum --check --quiet sums
	echo "$(wc -l <sums) files are as the client wrote them"
	;;
esac
