# What is done in the guest of the scenario, and how it is judged.
set -eu
box=/usr/lib/orthros-tests/busybox
# The services' main processes, as they were before the failure.
pids=/var/lib/main-pids
main() { systemctl show --property MainPID --value "$1"; }
services="nginx.service php8.2-fpm.service"

case $1 in
prepare)
	$box ip link set lo up
	$box ip link set eth0 up
	$box ip addr add 10.0.2.15/24 dev eth0
	$box ip route add default via 10.0.2.2
	mkdir -p /var/lib/book
	php -r '(new PDO("sqlite:/var/lib/book/book.db"))->exec("CREATE TABLE book (guest TEXT, text TEXT)");'
	chown -R www-data: /var/lib/book
	systemctl start $services
	orthros-ctl protect --unit php8.2-fpm.service
	for service in $services; do main $service; done >$pids
	;;
ready)
	$box wget -q -O /dev/null --post-data text=first http://127.0.0.1/book.php
	pidof nginx >$pids.nginx
	;;
verdict)
	for service in $services; do
		systemctl is-active $service
		main $service
	done >/var/lib/after
	sed 's/^/active\n/' $pids | cmp - /var/lib/after || { cat $pids /var/lib/after; exit 1; }
	php -r '$book = new PDO("sqlite:/var/lib/book/book.db");
		$check = $book->query("PRAGMA integrity_check")->fetchColumn();
		echo $check, ", ", $book->query("SELECT COUNT(*) FROM book")->fetchColumn(), " entries\n";
		exit((int) ($check !== "ok"));'
	# No worker had to be started anew.
	pidof nginx | cmp - $pids.nginx
	;;
esac
