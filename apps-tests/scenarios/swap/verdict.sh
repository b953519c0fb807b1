# What became of the cells, none of which may have been left out; that their memory was read from swap; and that both areas can
# be used once more.
set -e
/opt/orthros-tests/selfcheck --collect --only swapped/ --deadline-s 200 | tee /run/cells
grep -q ' 0 not, 0 skipped' /run/cells
dmesg | grep 'KB read from swap'
swapon /dev/vdb2
swapon /swapfile
orthros-ctl report --full >&2
