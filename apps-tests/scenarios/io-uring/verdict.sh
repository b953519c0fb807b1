# What became of the cells with rings, and of what is refused. A process knows where in its ring's memory to look for what:
# it cannot go on in a kernel that lays rings out in another way, as from 6.1 to 6.12.
set -e
cells=/opt/orthros-tests/selfcheck
before=$(cat /var/lib/kernel-before) after=$(uname -r)
if [ "$before" = "$after" ]; then
	$cells --collect --only io-uring/ --deadline-s 100
else
	$cells --collect --only io-uring/refused --deadline-s 100
fi
orthros-ctl report >/run/report
cat /run/report >&2
for what in 'requests are under way: 1' IORING_SETUP_SQPOLL 'registered buffers'; do
	grep -q "$what" /run/report || { echo "the report does not name: $what"; exit 1; }
done
if [ "$before" != "$after" ]; then
	# Five cells, one of them with a child.
	test "$(grep -c 'lays out its memory in another way' /run/report)" = 6
fi
