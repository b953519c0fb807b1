# Five processes; what comes out depends on every byte in every pipe.
seq 1 150000 |
	sed 's/^/line number /' |
	tr 0-9 a-j |
	while read -r first second third; do echo "$third $second $first"; done |
	cat
