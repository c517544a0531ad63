# shellcheck shell=bash
# A RabbitMQ node with nothing in common with one that the machine may run already: own name, ports, epmd,
# folders, cookie and users. Sourced by `testbed`, which sets $version.

# `data` is the node's folder as it sees it, `outside` as we do: RabbitMQ 4 lives in a file system of its own.
start_broker() {
    local data=$dir/rabbitmq outside=$dir/rabbitmq server=${tools[rabbitmq-server]:-}
    local -a within=()
    if [[ $version == 4 ]]; then
        data=/testbed/${ports[3]} outside=$rabbitmq_4/testbed/${ports[3]} within=(chroot "$rabbitmq_4")
        server=/usr/lib/rabbitmq/bin/rabbitmq-server
        # The ports are ours alone: what is left there is of a testbed that was killed.
        rm -rf "$outside"
        ln -s "$outside" "$dir/rabbitmq"
    fi
    # Debian's command in /usr/sbin changes to the user rabbitmq and its folders; this is what it calls.
    if [[ $server == /usr/sbin/* && -x /usr/lib/rabbitmq/bin/rabbitmq-server ]]; then
        server=/usr/lib/rabbitmq/bin/rabbitmq-server
    fi
    broker_user=testbed
    broker_password=$(random_word)
    broker_node=testbed-${ports[3]}@localhost
    mkdir -p "$outside/home"
    random_word >"$outside/home/.erlang.cookie"
    chmod 400 "$outside/home/.erlang.cookie"
    echo '[rabbitmq_management].' >"$outside/plugins"
    # A disk alarm would block the publishers on a full machine, and the tests write next to nothing.
    cat >"$outside/rabbitmq.conf" <<CONF
listeners.tcp.1 = $address:${ports[3]}
management.tcp.ip = 127.0.0.1
management.tcp.port = ${ports[4]}
default_user = $broker_user
default_pass = $broker_password
disk_free_limit.absolute = 1MB
log.console = true
log.console.level = warning
log.file = false
CONF
    if [[ $version == 4 ]]; then
        # Without /proc it can find out nothing about memory, takes it for 1 GB, and allows no limit above that.
        printf '%s\n' 'vm_memory_calculation_strategy = erlang' 'total_memory_available_override_value = 12GB' \
            >>"$outside/rabbitmq.conf"
    fi

    # For those who stop the node or set off its alarms.
    printf '#!/bin/sh\nexec %s "$@"\n' "${within[*]} env HOME=$data/home RABBITMQ_NODENAME=$broker_node \
ERL_EPMD_PORT=${ports[5]} /usr/lib/rabbitmq/bin/rabbitmqctl" >"$dir/rabbitmqctl"
    chmod +x "$dir/rabbitmqctl"

    start epmd "${tools[epmd]}" -port "${ports[5]}" -address 127.0.0.1
    # RUNNING_UNDER_SYSTEMD: the script then becomes the Erlang machine, so its pid is the server's.
    node=("${within[@]}" env HOME="$data/home" ERL_CRASH_DUMP="$data/erl_crash.dump" RUNNING_UNDER_SYSTEMD=true \
        RABBITMQ_NODENAME="$broker_node" RABBITMQ_DIST_PORT="${ports[6]}" ERL_EPMD_PORT="${ports[5]}" \
        RABBITMQ_CONF_ENV_FILE="$data/no-rabbitmq-env.conf" RABBITMQ_CONFIG_FILE="$data/rabbitmq.conf" \
        RABBITMQ_ADVANCED_CONFIG_FILE="$data/no-advanced.config" RABBITMQ_ENABLED_PLUGINS_FILE="$data/plugins" \
        RABBITMQ_MNESIA_BASE="$data/mnesia" RABBITMQ_LOG_BASE="$data/log" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
        "$server")
    start rabbitmq "${node[@]}"
}

# The AMQP listener is the last thing that a node opens.
await_broker() {
    await rabbitmq 120 port_open "${ports[3]}"
    await rabbitmq 30 management_answers
}

# In a process of its own: a node that is starting may close the connection, and writing to it then ends the process.
management_answers() (
    exec 3<>"/dev/tcp/127.0.0.1/${ports[4]}" || exit 1
    printf 'GET /api/whoami HTTP/1.0\r\nAuthorization: Basic %s\r\n\r\n' \
        "$(printf '%s:%s' "$broker_user" "$broker_password" | base64)" >&3
    read -r status <&3
    [[ $status == *' 200 '* ]]
)
