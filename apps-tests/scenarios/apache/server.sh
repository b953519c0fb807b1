# What is done in the guest of the scenario, and how it is judged.
set -eu
# Ids of the server's processes, as they were before the failure.
pids=/var/lib/server-pids
log=/var/log/apache2/error.log

case $1 in
prepare)
	mkdir -p /run/apache2 /run/lock/apache2
	a2enmod -q ssl
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 7 -subj /CN=guest \
		-keyout /etc/apache2/guest.pem -out /run/certificate
	cat /run/certificate >>/etc/apache2/guest.pem
	# What the client expects: the numbers from 1 on, 32 MB of them.
	seq 10000000 | head -c 33554432 >/var/www/html/numbers
	;;
ready)
	/usr/lib/orthros-tests/busybox wget -q -O /dev/null http://127.0.0.1/index.html
	pidof apache2 >$pids.new
	sync $pids.new
	mv $pids.new $pids
	;;
verdict)
	[ "$(pidof apache2)" = "$(cat $pids)" ] || { echo "processes $(pidof apache2), were $(cat $pids)"; exit 1; }
	! grep -E 'exit signal|:(crit|alert|emerg)\]' $log
	;;
esac
