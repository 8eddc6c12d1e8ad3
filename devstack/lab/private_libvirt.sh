#!/bin/bash
# Run one or two private libvirtd beside the host's own, which is not touched.
#
#   private_libvirt.sh --dir DIR [--hosts 1|2] [--hooks DIR] [--capabilities DIR]
#
# Each daemon lives in mount, UTS, network and process namespaces of its own,
# with its own /etc/libvirt, /run/libvirt and /var/{lib,cache,log}/libvirt
# below DIR/A (and DIR/B); its host name is vmsec-a (vmsec-b). --hooks becomes
# its /etc/libvirt/hooks. --capabilities is where the result of probing QEMU,
# which takes 5 to 45 s, is kept for the next run.
#
# Prints one line "URI qemu+unix:///..." for each daemon, then "READY"; runs
# until its standard input ends or it is told to stop (TERM, INT). Then all
# that runs in the namespaces is gone: killing the first process of a process
# namespace ends the rest, so no guest is left behind even after kill -9.
#
# KVM is hidden (TCG only). The security driver, cgroups and QEMU's own mount
# namespace are off: nothing is learned here about confinement. Needs root.
set -euo pipefail

dir='' hosts=1 hooks='' capabilities=''
PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "private_libvirt.sh: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --dir) dir=$2 ;;
        --hosts) hosts=$2 ;;
        --hooks) hooks=$2 ;;
        --capabilities) capabilities=$2 ;;
        *) fail "unknown option $1; the head of this file has the list" ;;
    esac
    shift 2
done
[ -n "$dir" ] || fail "--dir says where the daemons live"
case $hosts in 1) names=A ;; 2) names="A B" ;; *) fail "--hosts: 1 or 2" ;; esac
[ "$(id -u)" = 0 ] || fail "namespaces and libvirtd need root"
# 107 bytes is all that a UNIX socket's name may have (unix(7))
[ ${#dir} -le 70 ] || fail "the path $dir is too long for its sockets"
dir=$(realpath -m "$dir")
mkdir -p "$dir"
if [ -n "$hooks" ]; then hooks=$(realpath "$hooks"); fi
if [ -n "$capabilities" ]; then
    mkdir -p "$capabilities"
    capabilities=$(realpath "$capabilities")
fi

configure() {           # UUID: libvirtd's own files
    cat > /etc/libvirt/libvirtd.conf <<CONF
host_uuid = "$1"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
CONF
    cat > /etc/libvirt/qemu.conf <<CONF
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
CONF
}

host_up() {             # NAME NUMBER: inside the namespaces, as their init
    local part base=$dir/$1
    hostname "vmsec-${1,,}"
    for part in etc:/etc/libvirt run:/run/libvirt lib:/var/lib/libvirt \
        cache:/var/cache/libvirt log:/var/log/libvirt; do
        mkdir -p "$base/${part%%:*}" "${part#*:}"
        mount --bind "$base/${part%%:*}" "${part#*:}"
    done
    # A file that nobody may write, not /dev/null: were it writable, libvirtd
    # would think that KVM came back, and probe QEMU again every time.
    if [ -e /dev/kvm ]; then
        touch "$base/no-kvm"
        mount --bind "$base/no-kvm" /dev/kvm
        mount -o remount,bind,ro /dev/kvm
    fi
    mkdir -p /etc/libvirt/hooks /var/log/libvirt/qemu /var/lib/libvirt/qemu \
        /var/cache/libvirt/qemu/capabilities
    if [ -n "$hooks" ]; then mount --bind "$hooks" /etc/libvirt/hooks; fi
    if [ -n "$capabilities" ]; then
        mount --bind "$capabilities" /var/cache/libvirt/qemu/capabilities
    fi
    configure "aaaaaaaa-0000-4000-8000-00000000000$2"
    # This shell stays: the first process of the namespace has to reap the
    # guests (they daemonise), which libvirtd, waiting for them to be gone,
    # does not. A libvirtd that is killed comes back, as under an init.
    until libvirtd --pid-file "$base/libvirtd.pid"; do sleep .5; done
}
export -f host_up configure
export dir hooks capabilities

pids=()
cleanup() {
    trap '' INT TERM HUP
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2> /dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
}
trap cleanup EXIT
trap 'exit 0' INT TERM HUP

uri() { echo "qemu+unix:///system?socket=$dir/$1/run/libvirt-sock"; }

number=1
for name in $names; do
    mkdir -p "$dir/$name"
    # --kill-child and the death signal: nothing outlives this script
    setpriv --pdeathsig KILL unshare --mount --uts --net --pid --fork \
        --kill-child=KILL --mount-proc --propagation private -- \
        bash -c "host_up $name $number" \
        < /dev/null > "$dir/$name/daemon.log" 2>&1 &
    pids+=($!)
    number=$((number + 1))
done
for name in $names; do
    for _ in $(seq 300); do
        if virsh -c "$(uri "$name")" uri > /dev/null 2>&1; then break; fi
        sleep .2
    done
    virsh -c "$(uri "$name")" uri > /dev/null 2>&1 ||
        fail "libvirtd $name does not answer: $(tail -3 "$dir/$name/daemon.log")"
    echo "URI $(uri "$name")"
done
echo READY
# Standard input is the life line: a parent that dies closes it.
while read -r _; do :; done
