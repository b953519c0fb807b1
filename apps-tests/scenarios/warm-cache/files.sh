#!/bin/sh
# Files that are read, and what of them has to be read again after a failover.
set -e
dir=/var/warm

# Sectors that were read from the root disk so far (Documentation/admin-guide/iostats.rst, field 3).
sectors() {
    awk '$3 == "vda" { print $6 }' /proc/diskstats
}

case $1 in
make)
    mkdir -p $dir
    for file in 1 2 3 4; do
        dd if=/dev/urandom of=$dir/$file bs=1M count=256 status=none
    done
    # Not a whole number of pages.
    printf 'the end' >>$dir/4
    sync
    echo 3 >/proc/sys/vm/drop_caches
    (cd $dir && md5sum 1 2 3 4 >sums)
    sync
    ;;
judge)
    until orthros-ctl status >/dev/null; do sleep 0.2; done
    touch $dir/stop
    until [ -e $dir/result ]; do sleep 0.1; done
    cat $dir/result
    grep -q '^right' $dir/result
    before=$(sectors)
    cat $dir/1 $dir/2 $dir/3 $dir/4 >/dev/null
    after=$(sectors)
    echo "$((after - before)) sectors were read for $(cat $dir/[1-4] | wc -c) bytes"
    (cd $dir && md5sum --quiet -c sums)
    # Blocks that lead to the data may have to be read.
    test $((after - before)) -le 64
    ;;
esac
