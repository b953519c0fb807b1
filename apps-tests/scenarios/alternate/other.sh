#!/bin/sh
# other.sh remember: which kernel runs first. other.sh stage: the one that does not run takes over next, from now on.
set -eu
state=/var/lib/other
series() {
	case $(uname -r) in 6.1.*) echo 6.1 ;; *) echo 6.12 ;; esac
}

case $1 in
remember)
	series >$state
	;;
stage)
	# Where both kernels are the same, the other one is the same.
	before=$(sed -n '$p' $state)
	series >>$state
	# Nobody who is protected has it open.
	sync $state
	orthros-ctl stage --kernel "/boot/vmlinuz-$before" --auto
	orthros-ctl stage | grep -q "^$before\..*takes over next"
	;;
esac
