#!/bin/sh
# A process that needs no file system but the root: it has to live on.

# Counts until the machine ends.
count() {
	number=0
	echo $$ >/var/count.pid
	while sleep 0.1; do number=$((number + 1)) && echo $number >/var/count; done
}

# Says how far it is before the failure.
remember_count() {
	cp /var/count /var/count.before
}

# It lives and counts on.
counts_on() {
	kill -0 "$(cat /var/count.pid)"
	sleep 1
	test "$(cat /var/count)" -gt $(($(cat /var/count.before) + 5))
}
