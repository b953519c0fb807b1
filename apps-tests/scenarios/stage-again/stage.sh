#!/bin/sh
# Stages the kernel that runs, once more. stage.sh later: once /run/begin is there. stage.sh whole: until it is ready.
set -eu
case $(uname -r) in
6.1.*) kernel=/boot/vmlinuz-6.1 ;;
*) kernel=/boot/vmlinuz-6.12 ;;
esac

case $1 in
later)
	(
		until [ -e /run/begin ]; do sleep 0.1; done
		exec orthros-ctl stage --kernel $kernel --auto
	) </dev/null >/dev/null 2>&1 &
	;;
whole)
	orthros-ctl stage --kernel $kernel --auto
	orthros-ctl stage | grep -q "^state: ready"
	;;
esac
