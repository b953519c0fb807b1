# What one of the examples must have said after two panics.
said=$1
until grep -q '^failover 2,' "$said" && grep -q '^sleep' "$said"; do
	sleep 1
done
cat "$said"

# These lines, so many times, and no others of their kind.
exactly() {
	found=$(grep -c "^$2" "$said")
	all=$(grep -c "^${2%% *} " "$said")
	[ "$found" = "$1" ] && [ "$all" = "$1" ] && return
	echo "'$2' stands there $found times, and $all of its kind do, not $1"
	exit 1
}

# The handler ran once each time, in its turn, and was told the truth.
for n in 1 2; do
	line=$(grep "^failover $n, run $n, cause 1, from 6[^ ]* to 6[^ ]*, gap [1-9].* others still, in order$" "$said") || {
		echo "failover $n is not told as it was"
		exit 1
	}
	gap=${line##*gap }
	wall=${line##*wall clock }
	apart=$((${gap%% *} - ${wall%% *}))
	[ $apart -gt -1000 ] && [ $apart -lt 1000 ] || {
		echo "the clocks disagree by $apart ms"
		exit 1
	}
done
exactly 2 'failover [12], run'
[ "$(uname -r)" = "$(echo "$line" | sed 's/.* to \([^,]*\), .*/\1/')" ] || {
	echo "this is not the kernel that it was told of"
	exit 1
}
# The hooks decided.
exactly 2 'read -1 EIO'
exactly 2 'nanosleep -1 EINTR'
exactly 2 'poll 0'
exactly 2 'vmsplice -1 EAGAIN'
# Without a hook the call went on with what was left of its time.
exactly "$(grep -c '^sleep' "$said")" 'sleep 0 whole'
