# Processes in networks of their own: one with a link that is not made again, one that has a name as of `ip netns`, one with a link
# that is, and one with loopback alone.
orthros-ctl protect --comm sleep
touch /run/named
unshare --net sh -c 'ip link add d0 type dummy && ip link add m0 link d0 type macvlan && exec sleep 100000' &
unshare --net sh -c 'mount --bind /proc/self/ns/net /run/named && exec sleep 100001' &
unshare --net sleep 100002 &
unshare --net sh -c 'ip link add d0 type dummy && exec sleep 100003' &
for argument in 100000 100001 100002 100003; do
	until pgrep -x -f "sleep $argument"; do sleep 0.1; done
done
touch /var/lib/networks.ready
exec sleep infinity
