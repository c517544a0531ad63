# shellcheck shell=bash
# What the scripts of this folder share. Sourced, never run.

ETCD_VERSION=3.7.3
KUBERNETES_VERSION=1.37.2
CONTAINERD_VERSION=2.4.2
COREDNS_VERSION=1.15.0
TOKEN_BUCKET_VERSION=5.0.0
CARGO_DENY_VERSION=0.20.2
HELM_VERSION=4.3.1
# Has axe-core 4.12.1 in it.
AXE_PLAYWRIGHT_VERSION=0.1.8
HELM_3_VERSION=3.22.0
KEDA_VERSION=2.21.0

# Of the Python client's environments. aiormq is under aio-pika and kombu under Celery.
PYTHON_CLIENT_NEWEST=(celery==5.7.0 kombu==5.7.0 aio-pika==10.2.1 mypy==2.4.1 ruff==0.17.6 build==1.6.1 hatchling==1.33.0)
PYTHON_CLIENT_OLDEST=(celery==5.3.6 kombu==5.3.7 aio-pika==9.4.3)
PYTHON_CLIENT_BOTH=(django==5.2.19 gevent==26.9.0 pytest==9.2.0 pytest-xdist==3.8.0)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/token-bucket-operator
etcd_cache=$cache/etcd-$ETCD_VERSION
kubernetes_cache=$cache/kubernetes-$KUBERNETES_VERSION
# Not the one on PATH: the kubelet refuses what Debian 12 has.
containerd_cache=$cache/containerd-$CONTAINERD_VERSION
coredns_cache=$cache/coredns-$COREDNS_VERSION
# A root file system of Debian trixie, complete or not there.
rabbitmq_4=$cache/rabbitmq-4-trixie
# The same of Debian bookworm with C compilers.
image_builder=$cache/image-builder-bookworm-cross

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# find_tool NAME: prints its path; KUBEBUILDER_ASSETS and PATH come before what `tools` has built.
# /usr/sbin is not on the PATH of ordinary users in Debian.
find_tool() {
    local dir
    local -a dirs
    IFS=: read -ra dirs <<<"${KUBEBUILDER_ASSETS:-}:$PATH:/usr/sbin:$etcd_cache:$kubernetes_cache:$coredns_cache"
    for dir in "${dirs[@]}"; do
        if [[ -n $dir && -f $dir/$1 && -x $dir/$1 ]]; then
            printf '%s\n' "$dir/$1"
            return
        fi
    done
    return 1
}

# own_cluster: whether KUBECONFIG names a cluster on this machine that answers. It is used instead of a control plane of
# our own. A cluster elsewhere is never touched; nor is a testbed's, where a demo's operator would meddle in the tests.
own_cluster() {
    local client server
    [[ -n ${KUBECONFIG:-} && ! -e $(dirname "$KUBECONFIG")/../env ]] || return 1
    client=$(find_tool kubectl) || return 1
    server=$("$client" config view --minify -o 'jsonpath={.clusters[0].cluster.server}' 2>/dev/null) || return 1
    if [[ ! $server =~ ^https?://(127\.|localhost[:/]|\[::1\]) ]]; then
        say "KUBECONFIG names a cluster that is not on this machine ($server): it is left alone"
        return 1
    fi
    "$client" get --raw /readyz >/dev/null 2>&1
}

# with_progress WHAT LOG COMMAND...: runs the command with its output in LOG and prints a line now and then, so
# that nobody takes a long step for a hanging one; without a terminal too. On failure it shows the end of LOG.
with_progress() {
    local what=$1 log=$2 started=$SECONDS pid status=0
    shift 2
    say "$what …"
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    until timeout 20 tail --pid="$pid" --sleep-interval=0.2 -f /dev/null >/dev/null; do
        say "$what … $((SECONDS - started)) s"
    done
    wait "$pid" || status=$?
    if ((status != 0)); then
        tail -n 30 "$log" >&2
        die "$what: failed with status $status, the end of its output is above"
    fi
    say "$what: done in $((SECONDS - started)) s"
}
