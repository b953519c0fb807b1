#!/bin/sh
# A machine whose address is on a bridge, whose port is a bond, whose port is the card; with a VLAN and a dummy beside.
#
# links.sh make; verdict: they are there as they were.

# What is to stay, one fact a line: what each link is made as, what it lies on and belongs to, and how it was set.
facts() {
    for link in eth0 bond0 br0 br0.7 dummy7; do
        ip -d -o link show dev $link | tr '\\' '\n' | sed -n \
            -e "s/^[0-9]*: \([^:]*\):.* mtu \([0-9]*\) .*\(master [a-z0-9]*\).*/\1 mtu \2 \3/p" \
            -e 's/^ *link\/ether \([^ ]*\).*/address \1/p' \
            -e 's/.*\(vlan protocol [^<]*\).*/\1/p' -e 's/.*\(bond mode [a-z-]*\).*\(miimon [0-9]*\).*/\1 \2/p' \
            -e 's/.*\(bridge forward_delay [0-9]*\).*\(ageing_time [0-9]*\) \(stp_state [0-9]*\).*/\1 \2 \3/p'
        ip -o address show dev $link scope global | grep -v fec0 | sed 's/^[0-9]*: //; s/\\.*//; s/ *$//'
    done
}

case $1 in
make)
    address=$(ip -4 -o address show dev eth0 scope global | awk '{ print $4 }')
    router=$(ip -4 route show default | awk '{ print $3 }')
    ip link add bond0 type bond mode active-backup miimon 100 &&
        ip link add br0 type bridge forward_delay 0 ageing_time 12300 &&
        ip address flush dev eth0 && ip link set eth0 down && ip link set eth0 master bond0 &&
        ip link set bond0 master br0 && ip link set br0 mtu 1400 &&
        ip link add link br0 name br0.7 type vlan id 7 && ip link add dummy7 type dummy || exit 1
    for link in eth0 bond0 br0 br0.7 dummy7; do ip link set $link up || exit 1; done
    ip link set br0 type bridge forward_delay 900 &&
        ip address add $address dev br0 && ip route add default via $router &&
        ip address add 10.99.7.1/24 dev br0.7 && ip address add 10.99.0.1/24 dev dummy7 && facts >/var/lib/links
    ;;
verdict)
    facts >/tmp/links
    diff /var/lib/links /tmp/links && [ "$(wc -l </tmp/links)" -ge 12 ] && cat /tmp/links &&
        for address in 10.99.7.1 10.99.0.1; do
            # A server that is told of the end waits for half a second alone.
            { echo hello; sleep 5; } | socat - TCP:$address:7100 | grep hello || exit 1
        done
    ;;
esac
