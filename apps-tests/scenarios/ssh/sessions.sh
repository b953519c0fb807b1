# What is in the windows of the tmux of the scenario, and how it is judged.
set -eu
folder=/var/lib/sessions
mkdir -p $folder

# Tries a command until it succeeds.
until_true() {
	what=$1
	shift
	for try in $(seq 120); do
		! "$@" || return 0
		sleep 0.5
	done
	echo "never seen: $what"
	tmux list-panes -s -t work -F '#{window_name} #{pane_pid} #{pane_dead} #{pane_current_command}' || true
	for window in editor monitor shell; do
		tmux capture-pane -p -t work:$window || true
	done
	exit 1
}
shows() { tmux capture-pane -p -t "work:$1" | grep -qE "$2"; }
is_written() { grep -qx 'typed before the failure, and after' $folder/text; }
pids() { tmux list-panes -s -t work -F '#{window_name} #{pane_pid}'; }

case $1 in
before)
	until_true "a session" tmux has-session -t work
	# Its server is nobody's child.
	orthros-ctl protect --descendants --comm "tmux: server"
	tmux new-window -d -t work -n editor "vim -u NONE -i NONE -N $folder/text"
	tmux new-window -d -t work -n monitor 'top -d 1'
	tmux new-window -d -t work -n shell sh
	until_true "the editor" shows editor text
	tmux send-keys -t work:editor i 'typed before the failure'
	until_true "the editor's text" shows editor 'before the failure'
	until_true "the monitor" shows monitor 'load average'
	tmux send-keys -t work:shell 'number=42' Enter
	pids >$folder/pids.new
	sync $folder/pids.new
	mv $folder/pids.new $folder/pids
	;;
verdict)
	pids | cmp - $folder/pids
	tmux send-keys -t work:editor ', and after' Escape :wq Enter
	until_true "the text" is_written
	# Its clock and its list go on.
	until_true "the monitor" shows monitor 'load average'
	first=$(tmux capture-pane -p -t work:monitor | head -n 1)
	until_true "another time than '$first'" eval '[ "$(tmux capture-pane -p -t work:monitor | head -n 1)" != "$first" ]'
	tmux send-keys -t work:shell 'echo it is $number' Enter
	until_true "the answer of the shell" shows shell '^it is 42$'
	echo "the editor's text is saved, the monitor goes on, the shell answers"
	;;
esac
