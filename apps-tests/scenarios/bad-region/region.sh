#!/bin/sh
# Reads and overwrites words of the region, as a wild write would, and asks what the parts say to it.
# Offsets are those of the crate shared-region (layout.rs, header.rs, facts.rs).
set -eu
box=/usr/lib/orthros-tests/busybox
base=$(($(sed -n 's/.*orthros\.region=\([0-9a-fx]*\).*/\1/p' /proc/cmdline)))

# peek ADDRESS: eight bytes as a number
peek() { od -An -tu8 -j "$1" -N 8 /dev/mem | tr -d ' '; }
# flip ADDRESS: inverts the lowest bit of a byte; twice is nothing
flip() {
	byte=$(od -An -tu1 -j "$1" -N 1 /dev/mem)
	printf "\\$(printf %o $((byte ^ 1)))" | dd of=/dev/mem bs=1 seek="$1" conv=notrunc status=none
}
magic=$base abi=$((base + 8)) bsp=$((base + 0x38))
facts_abi=$((base + 0x10008)) facts_seq=$((base + 0x10010))

# A module file of the folder; says why not.
load() { $box insmod /opt/orthros-tests/modules/$1 region=$base allow_test=1 2>&1; }
# refused FILE PATTERN: the module must not load, and the kernel's log must say why
refused() {
	dmesg -C
	if load "$1"; then
		echo "$1 was loaded" >&2
		exit 1
	fi
	dmesg | grep -E "$2" || {
		echo "the log does not say '$2':" >&2
		dmesg >&2
		exit 1
	}
}
# said PATTERN: `orthros-ctl status` must come to say it
said() {
	for i in $(seq 60); do
		orthros-ctl status >/run/status 2>&1 || :
		! grep -E "$1" /run/status || return 0
		sleep 0.5
	done
	echo "status does not say '$1':" >&2
	cat /run/status >&2
	exit 1
}

case $1 in
module)
	$box rmmod orthros
	flip $magic
	refused orthros.ko "no region at .*: magic is"
	flip $magic
	flip $abi
	refused orthros.ko "the region has ABI version .*, this module speaks version"
	flip $abi
	flip $bsp
	refused orthros.ko "the region's header was overwritten: digest .* does not match"
	flip $bsp
	refused other-kernel.ko "orthros: .*(version magic|this_module section size|disagrees about version)"
	load orthros.ko
	said "^state: +armed"
	;;
facts)
	# The module of another version publishes facts.
	flip $facts_abi
	flip $facts_seq
	said "^state: +not armed: module and backup OS are of different versions"
	orthros-ctl log | grep -E "not armed: facts: .*version"
	flip $facts_abi
	flip $facts_seq
	said "^state: +armed"
	;;
header)
	# User land looks as well, and says so instead of showing nonsense.
	flip $bsp
	said "^state: +unusable: .*(digest|overwritten)"
	flip $bsp
	said "^state: +armed"
	;;
nursery)
	# A byte of the initramfs that stands ready at the end of the nursery.
	nursery=$(peek $((base + 0x20 + 8 * $(peek $((base + 0x30))))))
	flip $((nursery + 0x10000000 - 0x100000))
	;;
stage)
	# A byte of the staged image, far behind its header.
	flip $((base + 0x4000000 + 0x200000))
	;;
stage-other)
	# The same of the other slot.
	flip $((base + 0x6800000 + 0x200000))
	;;
stage-refused)
	said "^state: +armed"
	orthros-ctl log | grep -E "staged kernel 0: digest of the kernel is 0x[0-9a-f]+, staged was 0x[0-9a-f]+; the other slot is used"
	pidof sleep
	;;
*)
	echo "region.sh: no $1" >&2
	exit 2
	;;
esac
