# shellcheck shell=bash
# Starting, awaiting and ending the servers of one testbed. Sourced by `testbed`, which sets $dir and $launch.
# $dir/pids has a line "name pid start-time" for each: the start time tells a server from a stranger that has
# got its pid later, for instance after a reboot.

# Nothing for a zombie: the init of a container may never reap it. While threads of it are left, it still has its port.
start_time() {
    local -a threads=("/proc/$1/task"/*)
    local dead=Z
    ((${#threads[@]} == 1)) || dead=-
    sed -n "s/.*) \([^$dead] .*\)/\1/p" "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

alive() { [[ -n $2 && $(start_time "$1") == "$2" ]]; }

# start NAME COMMAND...: in the background, output in $dir/NAME.log.
start() {
    local name=$1
    shift
    "${launch[@]}" "$@" >"$dir/$name.log" 2>&1 </dev/null &
    printf '%s %s %s\n' "$name" "$!" "$(start_time $!)" >>"$dir/pids"
}

# await NAME SECONDS COMMAND...: until the command succeeds; fails early when the server has died.
await() {
    local name=$1 deadline=$((SECONDS + $2)) pid born
    shift 2
    read -r pid born < <(sed -n "s/^$name //p" "$dir/pids")
    until "$@" >"$dir/await.log" 2>&1; do
        alive "$pid" "$born" || give_up "$name has ended instead of getting ready" "$name"
        ((SECONDS < deadline)) || give_up "$name is not ready in time: $(tail -n 1 "$dir/await.log")" "$name"
        sleep 0.1
    done
}

give_up() {
    say "the end of $2.log:"
    tail -n 25 "$dir/$2.log" >&2
    die "$1"
}

all_alive() {
    local pid born
    [[ -s $dir/env ]] || return 1
    while read -r _ pid born; do
        alive "$pid" "$born" || return 1
    done <"$dir/pids"
}

gone_within() {
    local deadline=$((SECONDS + $1))
    while alive "$2" "$3"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# Ends the servers, and nothing else: TERM, and KILL after ten seconds. The last one first: an API server without its
# etcd does not end.
stop_all() {
    local pid born
    while read -r _ pid born; do
        if alive "$pid" "$born"; then
            kill -s TERM "$pid" || continue
            gone_within 10 "$pid" "$born" || kill -s KILL "$pid" || continue
        fi
    done < <(tac "$dir/pids")
}
