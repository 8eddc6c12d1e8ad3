#!/bin/bash
# A private RabbitMQ node on loopback: own ports, own data, no systemd, no rabbitmq user.
#
# Its environment keeps it apart from any other node on the same machine. It is
# stopped by SIGTERM to the beam's own pid ("rabbitmqctl stop PIDFILE" hangs).
#
# Run:   private_rabbitmq.sh [COMMAND [ARGUMENT...]]
#        COMMAND runs with RABBIT_URL (rabbit://...), AMQP_URL (amqp://...) and
#        RABBITMQCTL (a program that speaks to this node) in its environment.
#        Without COMMAND the node runs until Ctrl-C.
# Needs: Debian package rabbitmq-server (3.10 in Debian 12), python3. Root or not.
# shellcheck disable=SC1091  # its environment is written here
set -euo pipefail

dir=$(mktemp -d)
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
amqp_port=$(free_port)
node=vmsec$amqp_port@localhost

mkdir -p "$dir/home" "$dir/mnesia" "$dir/log"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$dir/home/.erlang.cookie"
chmod 400 "$dir/home/.erlang.cookie"
echo "[]." > "$dir/enabled_plugins"
cat > "$dir/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp_port
loopback_users.guest = true
CONF
cat > "$dir/env" <<ENV
export HOME=$dir/home
export ERL_EPMD_PORT=$(free_port) ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_NODENAME=$node RABBITMQ_NODE_IP_ADDRESS=127.0.0.1
export RABBITMQ_NODE_PORT=$amqp_port RABBITMQ_DIST_PORT=$(free_port)
export RABBITMQ_MNESIA_BASE=$dir/mnesia RABBITMQ_LOG_BASE=$dir/log
export RABBITMQ_CONFIG_FILE=$dir/rabbitmq RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins
export RABBITMQ_PID_FILE=$dir/pid
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
ENV
# Debian's /usr/sbin/rabbitmqctl insists on root or the rabbitmq user; this one does not.
cat > "$dir/rabbitmqctl" <<CTL
#!/bin/bash
. "$dir/env"
exec /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmqctl -n $node "\$@"
CTL
chmod +x "$dir/rabbitmqctl"

epmd_pid='' wrapper_pid=''
cleanup() {
    if [ -s "$dir/pid" ]; then kill "$(cat "$dir/pid")" 2>/dev/null || true; fi
    if [ -n "$wrapper_pid" ]; then wait "$wrapper_pid" 2>/dev/null || true; fi
    if [ -n "$epmd_pid" ]; then kill "$epmd_pid" 2>/dev/null || true; fi
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# epmd would otherwise be started as a daemon whose pid nobody knows
( . "$dir/env"; exec epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" ) & epmd_pid=$!
( . "$dir/env"; exec /usr/lib/rabbitmq/bin/rabbitmq-server ) > "$dir/server.out" 2>&1 & wrapper_pid=$!

for _ in $(seq 300); do
    if [ -s "$dir/pid" ] && (: < "/dev/tcp/127.0.0.1/$amqp_port") 2>/dev/null; then break; fi
    kill -0 "$wrapper_pid" 2>/dev/null || { cat "$dir/server.out" >&2; exit 1; }
    sleep .2
done
"$dir/rabbitmqctl" -q await_startup > /dev/null

export RABBIT_URL=rabbit://guest:guest@127.0.0.1:$amqp_port//
export AMQP_URL=amqp://guest:guest@127.0.0.1:$amqp_port//
export RABBITMQCTL=$dir/rabbitmqctl
if [ $# -gt 0 ]; then
    "$@"
else
    echo "RABBIT_URL=$RABBIT_URL"
    echo "RABBITMQCTL=$RABBITMQCTL"
    echo "Ctrl-C stops the node."
    wait "$wrapper_pid"
fi
