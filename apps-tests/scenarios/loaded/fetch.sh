# Fetches 8 MB from the guest again and again until the last step; a single failure ends it.
set -eu
fetch() {
	timeout 600 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$PORT_8080" && printf "GET /content HTTP/1.0\r\n\r\n" >&3 && cat <&3' | wc -c
}
count=0
while [ ! -e "$STEPS_DONE" ]; do
	bytes=$(fetch)
	if [ "$bytes" -lt 8388608 ]; then
		echo "fetch $count ended after $bytes bytes"
		exit 1
	fi
	count=$((count + 1))
	sleep 0.2
done
echo "fetched $count times"
[ $count -gt 10 ]
