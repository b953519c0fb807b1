#!/bin/sh
# Chains of programs that do nothing but start the next one, with the next number: shells, scripts, and scripts whose
# interpreter is told something; and shells that start programs beside them and look at what these say.
# programs.sh start | ready | judge
set -eu
directory=/var/lib/starts
chains="shell script told"
case $1 in
start)
	mkdir -p $directory
	cd $directory
	printf '%s\n' '#!/bin/sh' 'echo "$WORD $1 $2"; exec "$0" $(($1 + 1)) "$2"' >script
	printf '%s\n' '#!/bin/sh -e' 'echo "$WORD $1 $2"; exec "$0" $(($1 + 1)) "$2"' >told
	chmod +x script told
	export WORD="a word"
	shell='echo "$WORD $1 $2"; exec sh -c "$0" "$0" $(($1 + 1)) "$2"'
	look() {
		n=0
		while read -r line; do
			n=$((n + 1))
			[ "$line" = "a word $n the end" ] || { echo "$1: line $n is $line" >torn; exit 1; }
			[ $((n % 20)) != 0 ] || echo $n >count.$1
		done
		echo "$1: ends after $n" >torn
	}
	sh -c "$shell" "$shell" 1 "the end" | look shell &
	./script 1 "the end" | look script &
	./told 1 "the end" | look told &
	for i in 1 2; do
		sh -c 'n=0; want=$(seq 1 500 | md5sum)
			while :; do
				n=$((n + 1))
				sum=$(seq 1 500 | md5sum) || echo "child of $0: status $?" >torn
				[ "$sum" = "$want" ] || echo "child of $0: $sum" >torn
				[ $((n % 20)) != 0 ] || echo $n >count.$0
			done' child$i &
	done
	# A shell starts a program that is no part of a pipeline with vfork.
	for i in 1 2; do
		sh -c 'n=0
			seq 1 300 >want.$0
			while :; do
				n=$((n + 1))
				seq 1 300 >numbers.$0 || echo "vfork of $0: seq ends with $?" >torn
				cmp -s want.$0 numbers.$0 || echo "vfork of $0: cmp ends with $?" >torn
				[ $((n % 20)) != 0 ] || echo $n >count.$0
			done' vfork$i &
	done
	wait
	;;
ready)
	for name in $chains child1 child2 vfork1 vfork2; do [ -s $directory/count.$name ]; done
	;;
judge)
	cd $directory
	for name in $chains child1 child2 vfork1 vfork2; do
		before=$(cat count.$name) i=0
		until [ "$(cat count.$name)" != "$before" ]; do
			i=$((i + 1))
			[ $i -lt 60 ] || { echo "$name stands at $before"; exit 1; }
			sleep 1
		done
	done
	[ ! -e torn ] || { cat torn; exit 1; }
	! orthros-ctl report | grep -E 'was starting a program|\(vfork\)'
	;;
esac
