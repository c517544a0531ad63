# shellcheck shell=bash
# What the scripts of the demo share. Sourced, never run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source-path=SCRIPTDIR source=../tests/testbed/lib.sh
source "$root/tests/testbed/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../tests/testbed/processes.sh
source "$root/tests/testbed/processes.sh"

state=${XDG_STATE_HOME:-$HOME/.local/state}/token-bucket-operator/demo
servers=$state/servers
# For processes.sh: the operator is a process like the servers, and ends in the same way.
dir=$state/operator
launch=(setsid)

load_env() {
    [[ -e $servers/env ]] || die "the demo is not running: start it with make demo"
    set -a
    # shellcheck source=/dev/null
    source "$servers/env"
    set +a
}

stop_operator() {
    [[ -e $dir/pids ]] || return 0
    stop_all
    rm -f "$dir/pids"
}

one_at_a_time() {
    mkdir -p "$state"
    exec 9>"$state/lock"
    flock --nonblock 9 || die "another make demo or make demo-down is at work"
}
