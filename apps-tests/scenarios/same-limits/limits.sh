#!/bin/bash
# record FOLDER: settings, limits and RAM of the running kernel.
# compare BEFORE AFTER EXCEPTIONS: what differs and is not excepted, by name; fails if there is anything.
set -eu

record() {
	mkdir -p "$1"
	sysctl -a 2>/dev/null | sort >"$1/sysctl"
	{
		ulimit -Sa | sed 's/^/soft /'
		ulimit -Ha | sed 's/^/hard /'
	} >"$1/ulimit"
	sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo >"$1/memory"
	[ "$(wc -l <"$1/sysctl")" -gt 300 ] && [ -s "$1/ulimit" ] && [ -s "$1/memory" ]
}

compare() {
	local bad=0 name
	# Lines that only one side has; a name is all before the equals sign.
	for name in $(diff "$1/sysctl" "$2/sysctl" | sed -n 's/^[<>] \([^ ]*\) =.*/\1/p' | sort -u); do
		if cut -d' ' -f1 "$3" | grep -v '^#' | grep -v '^$' | { grep -qxE -f - <(echo "$name"); }; then
			continue
		fi
		bad=1
		grep -F "$name = " "$1/sysctl" | sed 's/^/before: /' || echo "before: no $name"
		grep -F "$name = " "$2/sysctl" | sed 's/^/after:  /' || echo "after:  no $name"
	done
	diff "$1/ulimit" "$2/ulimit" || bad=1
	return $bad
}

case $1 in
record) record "$2" ;;
compare) compare "$2" "$3" "$4" ;;
*) exit 2 ;;
esac
