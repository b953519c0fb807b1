# What is done in the guest of the scenario, and how it is judged.
set -eu

# The sums of the files that the client has committed.
listed() { grep -E '^[0-9a-f]{64}  file-[0-9]+$' /srv/nfs/sums || true; }

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
	# The client goes on meanwhile: with files that it begins now, too.
	cd /srv/nfs
	wanted=$(($(listed | wc -l) + 4))
	for try in $(seq 240); do
		[ $(listed | wc -l) -lt $wanted ] || break
		sleep 1
	done
	listed >/run/sums
	[ $(wc -l </run/sums) -ge $wanted ] || { echo "no more than $(wc -l </run/sums) files, and $wanted are wanted"; exit 1; }
	sha256sum --check --quiet /run/sums
	echo "$(wc -l </run/sums) files are as the client wrote them"
	;;
esac
