# A network as containers have it: a bridge of the machine, and the end of a pair in a namespace.
#
# network.sh make; run; ready; verdict.
set -eu
before=/var/lib/network.before
inside() { nsenter --target "$(pidof streams)" --net "$@"; }

# What is to stay, one fact a line.
facts() {
	sysctl net.ipv4.ip_forward net.ipv4.conf.veth7.proxy_arp net.ipv4.tcp_keepalive_time
	for link in br7 veth7; do
		ip -d -o link show dev $link | sed -E 's/^[0-9]+: ([^@:]+).* mtu ([0-9]+).* state ([A-Z]+).* link.ether ([^ ]+).*/\1 \2 \3 \4/'
		ip -o address show dev $link scope global | sed 's/^[0-9]*: //; s/\\.*//'
	done
	bridge link show dev veth7 | grep -o 'master br7 state [a-z]*'
	ip route show 10.88.0.0/24 | sed 's/linkdown //'
	inside ip -o address show | sed -E 's/^([0-9]+): ([^ ]+).* inet6? ([^ ]+).*/\1 \2 \3/; s/\\.*//' | grep -v ' fe80'
	inside ip -o link show | sed -E 's/^([0-9]+): ([^@:]+).* mtu ([0-9]+).*link.([a-z]+) ([^ ]+).*/\1 \2 \3 \4 \5/'
	inside ip route show
	inside ip -6 route show | grep -v fe80 | sed 's/ pref .*//'
	inside cat /proc/sys/net/ipv4/conf/eth0/arp_ignore
}

case $1 in
make)
	sysctl -qw net.ipv4.ip_forward=1 net.ipv4.tcp_keepalive_time=1234
	nft -f /etc/rules.nft
	ip link add br7 type bridge
	ip address add 10.88.0.1/24 dev br7
	ip link set br7 up
	;;
run)
	socat TCP-LISTEN:7100,bind=10.88.0.1,fork EXEC:cat &
	unshare --net sh -c '
		touch /run/namespace
		until test -e /run/connected; do sleep 0.1; done
		socat TCP6-LISTEN:7200,bind=[fd00:88::2],fork EXEC:cat &
		# Over the bridge to the machine, with a line to begin with.
		{ echo hello; while sleep 0.1; do echo more; done; } | socat - TCP:10.88.0.1:7100 >/var/lib/echoed &
		exec /opt/orthros-tests/streams 7000 20' &
	until test -e /run/namespace; do sleep 0.1; done
	pid=$(pgrep -f 'until test -e /run/connected' | head -n 1)
	ip link add veth7 address 02:88:00:00:00:01 mtu 1400 type veth peer name eth0 netns $pid
	ip link set veth7 master br7
	ip link set veth7 up
	sysctl -qw net.ipv4.conf.veth7.proxy_arp=1
	in="nsenter --target $pid --net"
	$in ip link set lo up
	$in ip link set eth0 address 02:88:00:00:00:02 mtu 1400 up
	$in ip address add 10.88.0.2/24 dev eth0
	$in ip address add fd00:88::2/64 dev eth0 nodad
	$in ip link add dummy0 type dummy
	$in ip address add 10.89.0.1/24 dev dummy0
	$in ip link set dummy0 up
	$in ip link add spare type dummy
	$in ip route add default via 10.88.0.1
	$in ip -6 route add default via fd00:88::1
	$in sh -c 'echo 2 >/proc/sys/net/ipv4/conf/eth0/arp_ignore'
	touch /run/connected
	wait
	;;
ready)
	grep -q more /var/lib/echoed
	[ "$(inside ip -o -4 address show dev eth0 | wc -l)" = 1 ]
	facts >$before
	[ "$(wc -l <$before)" -gt 20 ]
	;;
verdict)
	facts >$before.now
	diff $before $before.now
	# The connection over the bridge goes on, and others come about.
	lines=$(wc -l </var/lib/echoed)
	sleep 2
	[ "$(wc -l </var/lib/echoed)" -gt "$lines" ]
	# A server that is told of the end waits for half a second alone.
	for address in TCP:10.88.0.1:7100 TCP6:[fd00:88::2]:7200; do
		{ echo new; sleep 5; } | inside socat - $address | grep new
	done
	# Nothing waits in the machine's network for a namespace.
	! ip link show | grep orthros || exit 1
	cat $before.now
	;;
esac
