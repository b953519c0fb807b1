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
	cat /sys/kernel/mm/transparent_hugepage/{enabled,defrag,use_zero_page,khugepaged/defrag} >"$1/huge"
	[ "$(wc -l <"$1/sysctl")" -gt 300 ] && [ -s "$1/ulimit" ] && [ -s "$1/memory" ]
}

# near PER-CENT A B: lists of numbers that differ by no more
near() {
	awk -v most="$1" -v a="$2" -v b="$3" 'BEGIN {
		n = split(a, x); if (split(b, y) != n) exit 1
		for (i = 1; i <= n; i++) { d = x[i] - y[i]; if (d < 0) d = -d; if (d * 100 > most * x[i]) exit 1 }
	}'
}

# excepted NAME BEFORE AFTER
excepted() {
	local pattern most reason
	while read -r pattern most reason; do
		case $pattern in '' | '#'*) continue ;; esac
		[[ $1 =~ ^($pattern)$ ]] || continue
		[ "$most" = '*' ] || near "$most" "$2" "$3"
		return
	done <"$exceptions"
	return 1
}

value() { sed -n "s/^${1//./\\.} = //p" "$2"; }

compare() {
	local bad=0 name before after
	exceptions=$3
	# Lines that only one side has; a name is all before the equals sign.
	for name in $(diff "$1/sysctl" "$2/sysctl" | sed -n 's/^[<>] \([^ ]*\) =.*/\1/p' | sort -u); do
		before=$(value "$name" "$1/sysctl")
		after=$(value "$name" "$2/sysctl")
		excepted "$name" "$before" "$after" && continue
		echo "$name: before $before, after $after"
		bad=1
	done
	diff "$1/huge" "$2/huge" || bad=1
	paste "$1/ulimit" "$2/ulimit" >"$2/pairs"
	while IFS=$'\t' read -r before after; do
		[ "$before" = "$after" ] && continue
		# The number of processes and signals follows kernel.threads-max.
		if [[ $before =~ "(-u)"|"(-i)" ]] && near 2 "${before##* }" "${after##* }"; then
			continue
		fi
		echo "before: $before; after: $after"
		bad=1
	done <"$2/pairs"
	before=$(cat "$1/memory")
	after=$(cat "$2/memory")
	echo "MemTotal: before $before kB, after $after kB"
	near 2 "$before" "$after" || bad=1
	return $bad
}

case $1 in
record) record "$2" ;;
compare) compare "$2" "$3" "$4" ;;
*) exit 2 ;;
esac
