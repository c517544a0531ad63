# shellcheck shell=bash
# RabbitMQ nodes with nothing in common with one that the machine may run already: own name, ports, epmd,
# folders, cookie and users. Sourced by `testbed`, which sets $newer when RabbitMQ 4 is wanted too.

broker_user=testbed

start_brokers() {
    broker_password=$(random_word)
    start epmd "${tools[epmd]}" -port "${ports[5]}" -address 127.0.0.1
    start_older
    [[ -z $newer ]] || start_newer
}

start_older() {
    local data=$dir/rabbitmq server=${tools[rabbitmq-server]}
    # Debian's command in /usr/sbin changes to the user rabbitmq and its folders; this is what it calls.
    if [[ $server == /usr/sbin/* && -x /usr/lib/rabbitmq/bin/rabbitmq-server ]]; then
        server=/usr/lib/rabbitmq/bin/rabbitmq-server
    fi
    configure_broker "$data" 3
    start_broker rabbitmq "$data" 3 "$server"
}

# In a file system of its own, so its data has to be in there. It has no /proc: RabbitMQ cannot find out about memory.
start_newer() {
    local inside=/testbed/${ports[10]}
    local data=$rabbitmq_4$inside
    # The ports are ours alone: what is left there is of a testbed that was killed.
    rm -rf "$data"
    ln -s "$data" "$dir/rabbitmq-4"
    configure_broker "$data" 10
    cat >>"$data/rabbitmq.conf" <<CONF
vm_memory_calculation_strategy = erlang
vm_memory_high_watermark.absolute = 2GB
CONF
    start_broker rabbitmq-4 "$inside" 10 /usr/lib/rabbitmq/bin/rabbitmq-server chroot "$rabbitmq_4"
}

# configure_broker FOLDER PORT: AMQP listens at ${ports[PORT]}, the management API at the next one.
configure_broker() {
    mkdir -p "$1/home"
    random_word >"$1/home/.erlang.cookie"
    chmod 400 "$1/home/.erlang.cookie"
    echo '[rabbitmq_management].' >"$1/plugins"
    # A disk alarm would block the publishers on a full machine, and the tests write next to nothing.
    cat >"$1/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:${ports[$2]}
management.tcp.ip = 127.0.0.1
management.tcp.port = ${ports[$2 + 1]}
default_user = $broker_user
default_pass = $broker_password
disk_free_limit.absolute = 1MB
log.console = true
log.console.level = warning
log.file = false
CONF
}

# start_broker NAME FOLDER PORT SERVER [COMMAND...]: the command, if any, executes the rest.
start_broker() {
    local name=$1 data=$2 port=$3 server=$4
    shift 4
    # RUNNING_UNDER_SYSTEMD: the script then becomes the Erlang machine, so its pid is the server's.
    start "$name" "$@" env HOME="$data/home" ERL_CRASH_DUMP="$data/erl_crash.dump" RUNNING_UNDER_SYSTEMD=true \
        RABBITMQ_NODENAME="$(node_name "$port")" RABBITMQ_DIST_PORT="${ports[port + 3]}" ERL_EPMD_PORT="${ports[5]}" \
        RABBITMQ_CONF_ENV_FILE="$data/no-rabbitmq-env.conf" RABBITMQ_CONFIG_FILE="$data/rabbitmq.conf" \
        RABBITMQ_ADVANCED_CONFIG_FILE="$data/no-advanced.config" RABBITMQ_ENABLED_PLUGINS_FILE="$data/plugins" \
        RABBITMQ_MNESIA_BASE="$data/mnesia" RABBITMQ_LOG_BASE="$data/log" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
        "$server"
}

node_name() { printf 'testbed-%s@localhost' "${ports[$1]}"; }

# The AMQP listener is the last thing that a node opens.
await_brokers() {
    await rabbitmq 120 port_open "${ports[3]}"
    await rabbitmq 30 management_answers "${ports[4]}"
    if [[ -n $newer ]]; then
        await rabbitmq-4 120 port_open "${ports[10]}"
        await rabbitmq-4 30 management_answers "${ports[11]}"
    fi
}

management_answers() {
    local status='' fd
    exec {fd}<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET /api/whoami HTTP/1.0\r\nAuthorization: Basic %s\r\n\r\n' \
        "$(printf '%s:%s' "$broker_user" "$broker_password" | base64)" >&"$fd"
    read -r status <&"$fd"
    exec {fd}>&-
    [[ $status == *' 200 '* ]]
}

# The lines of the `env` file that are about the broker, or about both.
broker_env() {
    local port=3 user=$broker_user:$broker_password
    if [[ -n $newer ]]; then
        port=10
        cat <<ENV
OLDER_AMQP_URL=amqp://$user@127.0.0.1:${ports[3]}/%2f
OLDER_RABBITMQ_MANAGEMENT_URL=http://127.0.0.1:${ports[4]}
ENV
    fi
    cat <<ENV
AMQP_URL=amqp://$user@127.0.0.1:${ports[port]}/%2f
RABBITMQ_MANAGEMENT_URL=http://127.0.0.1:${ports[port + 1]}
RABBITMQ_USER=$broker_user
RABBITMQ_PASSWORD=$broker_password
RABBITMQ_NODENAME=$(node_name "$port")
ERL_EPMD_PORT=${ports[5]}
ENV
}
