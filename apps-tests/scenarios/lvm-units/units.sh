#!/bin/sh
# A volume of LVM that systemd mounts by /etc/fstab, and a service that writes to it.
set -e
device='dev-mapper-vg\x2ddata.device'
case $1 in
make)
    pvcreate -q /dev/vdb
    vgcreate -q vg /dev/vdb
    lvcreate -q -y -n data -l 30 vg
    mkfs.ext4 -q /dev/vg/data
    mkdir -p /srv/data
    echo '/dev/mapper/vg-data /srv/data ext4 defaults 0 2' >>/etc/fstab
    systemctl daemon-reload
    systemctl start srv-data.mount
    ;;
check)
    # The system has to be up: what waits for a device in vain is given up after 90 s.
    systemctl is-system-running --wait || true
    systemctl --no-legend --plain --failed list-units
    test -z "$(systemctl --no-legend --plain --failed list-units)"
    systemctl is-active "$device" srv-data.mount counter.service
    systemd-analyze time || true
    awk 'NR != $1 { exit 1 }' /srv/data/held
    held=$(tail -n 1 /srv/data/held)
    sleep 3
    test "$(tail -n 1 /srv/data/held)" -gt "$held"
    test "$(readlink -f /dev/vg/data)" = "$(readlink -f /dev/mapper/vg-data)"
    lvs --noheadings -o lv_name,lv_active,lv_device_open vg
    lvs --noheadings -o lv_active,lv_device_open vg | grep -E '^ *active +open'
    systemctl stop counter.service srv-data.mount
    e2fsck -fn /dev/mapper/vg-data
    lvremove -q -y vg/data
    ;;
esac
