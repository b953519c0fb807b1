#!/bin/sh
# Programs that write to an ext4 without ever syncing it, each of which tells what it has done, and the judgement.
churn=/opt/orthros-tests/churn
at=/srv/vdb
db=$at/sqlite/db
tree=/var/tree.tar

# What message N says.
message() {
    yes "message $1" | head -c $((500 + $1 * 37 % 20000))
}

sqlite() {
    mkdir $at/sqlite && sqlite3 $db "create table t (n integer primary key, body blob)" || exit 1
    n=0
    while n=$((n + 1)); do
        sqlite3 $db "pragma synchronous=off; insert into t values ($n, randomblob(3000))" && echo "sqlite $n" || exit 1
    done
}

# As Postfix and maildirs do: written aside, renamed when complete, moved on, removed when it is old.
mail() {
    mkdir -p $at/mail/tmp $at/mail/new $at/mail/cur || exit 1
    n=0
    while n=$((n + 1)); do
        message $n >$at/mail/tmp/$n && mv $at/mail/tmp/$n $at/mail/new/$n || exit 1
        test $n -le 5 || mv $at/mail/new/$((n - 5)) $at/mail/cur/$((n - 5)):2,S || exit 1
        test $n -le 40 || rm $at/mail/cur/$((n - 40)):2,S || exit 1
        echo "mail $n"
    done
}

unpack() {
    n=0
    while n=$((n + 1)); do
        mkdir -p $at/tar/$n && tar xf $tree -C $at/tar/$n && rm -rf $at/tar/$((n - 3)) && echo "tar $n" || exit 1
    done
}

commits() {
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    git init -q $at/git && cd $at/git && git config core.fsync none && git config gc.auto 0 || exit 1
    n=0
    while n=$((n + 1)); do
        message $n >file$((n % 7)) && git add . && git commit -qm "$n" && echo "git $n" || exit 1
        test $((n % 8)) != 0 || git gc -q || exit 1
    done
}

# What NAME has told last.
told() {
    echo "$ACKNOWLEDGED" | tr , '\n' | sed -n "s/^$1 //p"
}

bad() {
    echo "$*"
    status=1
}

case $1 in
start)
    mkfs.ext4 -q -F /dev/vdb && mkdir -p $at && mount /dev/vdb $at || exit 1
    tar cf $tree -C / etc usr/share/git-core usr/share/perl5 || exit 1
    sync $tree
    sysctl -qw vm.dirty_expire_centisecs=200 vm.dirty_writeback_centisecs=100
    port=0
    for program in sqlite mail unpack commits; do
        setsid sh /opt/programs.sh $program 2>/run/$program.log </dev/null | setsid $churn tell --port $port >/dev/null 2>&1 &
        port=$((port + 1))
    done
    ;;
sqlite | mail | unpack | commits) $1 ;;
ready)
    sleep 12
    for program in sqlite mail unpack commits; do
        pgrep -f "programs.sh $program" >/dev/null || { cat /run/$program.log; exit 1; }
    done
    ;;
check)
    status=0
    mountpoint -q $at || mount /dev/vdb $at || exit 1
    echo "told: $ACKNOWLEDGED"
    test "$(sqlite3 $db 'pragma integrity_check')" = ok || bad "the database is not whole"
    test "$(sqlite3 $db 'select count(*) from t')" -ge "$(told sqlite)" || bad "rows are missing"
    n=$(told mail)
    for old in $(seq $((n > 38 ? n - 38 : 1)) "$n"); do
        message "$old" | cmp - "$(ls $at/mail/new/"$old" $at/mail/cur/"$old":2,S 2>/dev/null | tail -1)" || bad "message $old"
    done
    ls $at/mail/new $at/mail/cur | wc -l | grep -qE '^(.|[1-3].|4[0-6])$' || bad "messages that were removed"
    n=$(told tar)
    for one in $n $((n - 1)); do
        test "$one" -lt 1 || tar df $tree -C $at/tar/$one || bad "tree $one"
    done
    git -C $at/git fsck --full --strict 2>&1 | grep -v '^dangling' | grep . && bad "the repository is not whole"
    test "$(git -C $at/git rev-list --count HEAD)" -ge "$(told git)" || bad "commits are missing"
    umount $at && e2fsck -fn /dev/vdb || status=1
    exit $status
    ;;
esac
