#!/bin/sh
# says PATTERN COMMAND...: the command fails, and says why.
says() {
	pattern=$1
	shift
	if "$@" >/run/said 2>&1 || ! grep -qE "$pattern" /run/said; then
		echo "$* does not fail with '$pattern':" >&2
		cat /run/said >&2
		exit 1
	fi
}

# fails COMMAND...: the command fails. (A `!` before it would not end a script.)
fails() {
	if "$@"; then
		echo "$* does not fail" >&2
		exit 1
	fi
}
