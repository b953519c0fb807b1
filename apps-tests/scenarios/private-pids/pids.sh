# What runs in the namespace, and what looks at it from outside.
#
# Everybody inside says again and again which numbers it sees; a process and its descendants can be asked to do something by
# files in $D.
D=/var/lib/pids
S="sh /opt/pids.sh"
WORKER=/opt/orthros-tests/checksum-worker
AWK="/usr/lib/orthros-tests/busybox awk"

# Name, own number, parent, group and session, and the processes that /proc shows.
say() {
    read -r line </proc/$$/stat
    set -- "$1" ${line##*) }
    ids="$$ $3 $4 $5"
    read -r self _ </proc/self/stat
    [ "$self" = $$ ] || ids="$ids, and /proc/self is $self"
    echo "$1 $ids" >"$D/$1.new"
    mv "$D/$1.new" "$D/$1"
}

# The numbers of all that have one in a namespace, from outside in.
seen() {
    grep -h '^NSpid:[[:space:]]*[0-9][0-9]*[[:space:]][[:space:]]*[0-9]' /proc/[0-9]*/status 2>/dev/null | sed 's/^NSpid:[[:space:]]*//'
}

# Those that do not come and go.
outside() {
    for look in 1 2 3 4; do
        seen
        sleep 0.3
    done | sort -n | $AWK '{ if (++count[$0] == 4) print }'
}

until_is() {
    for i in $(seq 150); do
        eval "$1" && return
        sleep 0.2
    done
    echo "not so: $1"
    return 1
}

fail() {
    echo "$@"
    exit 1
}

case $1 in
first)
    mkdir -p $D
    $WORKER --status $D/checksum --threads 3 --megabytes 4 >/dev/null &
    $S worker &
    worker=$!
    setsid $S session &
    # The parent waits for nothing: a zombie.
    $S parent &
    trap 'touch $D/heard' USR1
    while :; do
        say first
        if [ -e $D/kill ]; then
            kill -TERM $worker
            wait $worker
            echo $? >$D/killed
            rm $D/kill
        fi
        if [ -e $D/bear ]; then
            rm $D/bear
            sleep 60 &
            echo $! >$D/born
        fi
        sleep 0.2
    done
    ;;
worker)
    while :; do say worker; sleep 0.2; done
    ;;
session)
    $S grandchild &
    while :; do
        say session
        [ -e $D/signal ] && kill -USR1 1 && rm $D/signal
        sleep 0.2
    done
    ;;
grandchild)
    while :; do say grandchild; sleep 0.2; done
    ;;
parent)
    # `exec` takes from the shell what would have waited.
    sh -c 'exit 3' &
    exec sleep 100000
    ;;
ready)
    for name in first worker session grandchild; do
        [ -e $D/$name ] || exit 1
    done
    grep -q phase=steady $D/checksum || exit 1
    # The child of `unshare`.
    seen | $AWK '$2 == 1 { print $1 }' >$D/outer
    outside >$D/outside.before
    [ $(wc -l <$D/outside.before) -ge 7 ] || exit 1
    cat $D/first $D/session $D/grandchild >$D/inside.before
    # The kernel may die any time.
    sync
    cat $D/outside.before $D/inside.before
    ;;
verdict)
    rm -f $D/first $D/session $D/grandchild
    until_is '[ -e $D/first ] && [ -e $D/session ] && [ -e $D/grandchild ]' || exit 1
    cat $D/first $D/session $D/grandchild | diff $D/inside.before - || fail "numbers inside differ"
    outside | diff $D/outside.before - || fail "numbers outside differ"
    $WORKER --judge $D/checksum --patience 60 || exit 1
    touch $D/signal
    until_is '[ -e $D/heard ]' || exit 1
    touch $D/bear
    until_is '[ -s $D/born ]' || exit 1
    highest=$($AWK '{ if ($2 > most) most = $2 } END { print most }' $D/outside.before)
    [ $(cat $D/born) -gt $highest ] || fail "a child got $(cat $D/born), of $highest"
    touch $D/kill
    until_is '[ -s $D/killed ]' || exit 1
    [ $(cat $D/killed) = 143 ] || fail "the worker ended with $(cat $D/killed)"
    outer=$(cat $D/outer)
    kill -KILL $outer
    until_is '[ -z "$(while read -r pid _; do [ -e /proc/$pid ] && echo $pid; done <$D/outside.before)" ]' || exit 1
    echo "all numbers as before; process 1 took all others with it"
    ;;
esac
