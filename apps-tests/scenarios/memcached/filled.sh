# Waits until the clients have put everything in.
for try in $(seq 300); do
	exec 3<>/dev/tcp/127.0.0.1/11211
	printf 'stats\r\nquit\r\n' >&3
	grep -q 'curr_items 4000' <&3 && exit 0
	sleep 1
done
exit 1
