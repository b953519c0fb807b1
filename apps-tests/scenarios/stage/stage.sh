#!/bin/sh
# Stages kernels, and tries what must be refused.
set -eu
first=/var/lib/first-series

series() {
	case $1 in 6.1.*) echo 6.1 ;; *) echo 6.12 ;; esac
}

# refused WORDS ARGUMENTS...: the command fails and says so.
refused() {
	words=$1
	shift
	if text=$("$@" 2>&1); then
		echo "accepted: $*" >&2
		exit 1
	fi
	echo "$text" | grep -q "$words" || {
		echo "$*: says '$text', not '$words'" >&2
		exit 1
	}
}

case $1 in
remember)
	series "$(uname -r)" >$first
	;;
refusals)
	kernel=/boot/vmlinuz-6.1
	other=/boot/vmlinuz-6.12
	before=$(orthros-ctl stage | grep slot)
	cd /tmp
	echo "This is a text." >text
	refused "not a Linux kernel image" orthros-ctl stage --kernel text
	refused "cannot read /nowhere" orthros-ctl stage --kernel /nowhere
	truncate -s 50M large
	refused "too large for a kernel image" orthros-ctl stage --kernel large
	head -c 56 /dev/zero >arm
	printf 'ARM\144' >>arm
	head -c 4000 /dev/zero >>arm
	refused "is a kernel for arm64" orthros-ctl stage --kernel arm
	head -c 3000000 $kernel >short
	refused "is cut off" orthros-ctl stage --kernel short
	# An initramfs, whole and damaged, for this kernel and for another one.
	gzip -c text >packed
	refused "no initramfs" orthros-ctl stage --kernel $kernel --initrd text
	refused "it is no initramfs\|it is cut short\|no cpio header" orthros-ctl stage --kernel $kernel --initrd packed
	busybox=/usr/lib/orthros-tests/busybox
	mkdir -p tree
	cp /usr/lib/orthros/orthros-init tree/init
	(cd tree && find . | $busybox cpio -o -H newc 2>/dev/null) >whole
	refused "it has no /lib/orthros/orthros.ko" orthros-ctl stage --kernel $kernel --initrd whole
	head -c 100000 whole >short
	refused "it is cut short" orthros-ctl stage --kernel $kernel --initrd short
	gzip -c whole | head -c 100000 >short
	refused "it is cut short" orthros-ctl stage --kernel $kernel --initrd short
	module=$(echo /usr/lib/orthros/modules/6.1.*/orthros.ko)
	refused "is built for kernel 6.1.*, not for 6.12" orthros-ctl stage --kernel $other --module "$module"
	refused "the modules of kernel .* are not installed" orthros-ctl stage --kernel $kernel --modules /tmp
	refused "there is no orthros-init\|cannot read" orthros-ctl stage --kernel $kernel --init /nowhere
	refused "belongs to a --kernel" orthros-ctl stage --auto
	refused "add --yes" orthros-ctl update --kernel $kernel
	# While another one is under way.
	refused "is under way" flock /dev/orthros orthros-ctl update --yes
	refused "is under way" flock /dev/orthros orthros-ctl stage --kernel $kernel
	# Nothing has changed.
	[ "$(orthros-ctl stage | grep slot)" = "$before" ]
	orthros-ctl status
	;;
back)
	orthros-ctl stage --kernel "/boot/vmlinuz-$(cat $first)" --auto
	orthros-ctl stage | grep -q "^$(cat $first)\..*takes over next"
	orthros-ctl stage | grep -q "^state: ready"
	orthros-ctl log | grep "stage: a kernel was staged in slot"
	orthros-ctl status
	;;
judge)
	[ "$(series "$(uname -r)")" = "$(cat $first)" ]
	orthros-ctl stage
	;;
esac
