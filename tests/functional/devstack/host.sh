#!/bin/bash
# Takes the plugin through DevStack's phases on this host, for real: services
# run, files are written below $DEST. Only what DevStack itself would do is
# done here in its place, in the simplest way that does it.
#
# Environment: DEST, PREFIX (where the programs of vmsec are), RABBIT_URL,
# VMSEC_DIR and other settings of the plugin.
set -euo pipefail

DATA_DIR=$DEST/data
services=' '

sudo() { "$@"; }                        # the test runs as root
define_plugin() { echo "plugin $1"; }
enable_service() { services="$services$* "; }
is_service_enabled() { case $services in *" $1 "*) ;; *) return 1 ;; esac; }
echo_summary() { echo "== $*"; }
get_python_exec_prefix() { echo "$PREFIX"; }
get_transport_url() { echo "$RABBIT_URL"; }
setup_develop() { "$PREFIX/python" -c 'import vmsec'; }
install_package() { dpkg-query -W "$@" > /dev/null; }

die() {
    echo "line $1: $2" >&2
    exit 1
}

iniset() {                              # [-sudo] FILE SECTION OPTION VALUE
    if [ "$1" = -sudo ]; then shift; fi
    "$PREFIX/python" - "$@" << 'PY'
import configparser, sys
path, section, option, value = sys.argv[1:]
conf = configparser.RawConfigParser(default_section="no such section")
conf.read(path)
if not conf.has_section(section):
    conf.add_section(section)
conf.set(section, option, value)
with open(path, "w") as file:
    conf.write(file)
PY
}

run_process() {                         # SERVICE COMMAND [GROUP] [USER]
    # shellcheck disable=SC2086  # a command line, as DevStack takes it
    setsid $2 < /dev/null > "$DEST/$1.log" 2>&1 &
    echo $! > "$DEST/$1.pid"
}

stop_process() {
    local pid
    pid=$(cat "$DEST/$1.pid")
    kill "$pid"
    tail --pid="$pid" -f /dev/null      # waits until it is gone
    rm "$DEST/$1.pid"
}

stop_all() {                            # whatever happens, nothing stays
    local file
    for file in "$DEST"/*.pid; do
        if [ -e "$file" ]; then kill -KILL "$(cat "$file")" || true; fi
    done
}
trap stop_all EXIT

phase() {
    # shellcheck source=devstack/plugin.sh
    source "$VMSEC_DIR/devstack/plugin.sh" "$@"
}

mkdir -p "$DATA_DIR"
# shellcheck source=devstack/settings
source "$VMSEC_DIR/devstack/settings"
phase stack pre-install
phase stack install
phase stack post-config
phase stack extra
"$PREFIX/vmsec" --api-socket "$VMSEC_RUN_DIR/api.sock" doctor -f json \
    > "$DEST/doctor.json"
ls "$DEST"/*.pid > "$DEST/ran"
cp "$VMSEC_CONF" "$DEST/vmsec.conf"
ls "$VMSEC_HOOKS/qemu.d" > "$DEST/hooks"
phase unstack
phase clean
