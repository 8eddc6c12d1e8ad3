#!/bin/bash
# DevStack plugin: installs, configures and starts the vmsec services.
#
# DevStack sources this file with: stack pre-install|install|post-config|
# extra|test-config, unstack, clean. The services run as root, as the agent
# opens disks of any owner and all of them share software TPMs and sockets.
# https://docs.openstack.org/devstack/latest/plugins.html
# shellcheck disable=SC2154  # variables of DevStack and of ./settings

VMSEC_SERVICES="vmsec-kmc vmsec-agent vmsec-controller vmsec-api"

function is_vmsec_enabled {
    local service
    for service in $VMSEC_SERVICES; do
        if is_service_enabled "$service"; then return 0; fi
    done
    return 1
}

function vmsec_bin {
    echo "$(get_python_exec_prefix)/$1"
}

# Debian packages of bindep.txt, without those of lab and tests.
function install_vmsec_packages {
    # shellcheck disable=SC2046  # a list of words
    install_package $(sed -nE \
        's/^([a-z0-9][^ ]*) \[platform:dpkg( compile| devstack)*\]$/\1/p' \
        "$VMSEC_DIR/bindep.txt")
}

function install_vmsec {
    setup_develop "$VMSEC_DIR"
}

function configure_vmsec {
    sudo install -d -m 0755 "$VMSEC_CONF_DIR"
    sudo install -d -m 0700 "$VMSEC_STATE_PATH"
    sudo install -d -m 0755 "$VMSEC_RUN_DIR"
    sudo install -m 0640 /dev/null "$VMSEC_CONF"
    iniset -sudo "$VMSEC_CONF" DEFAULT state_path "$VMSEC_STATE_PATH"
    iniset -sudo "$VMSEC_CONF" DEFAULT host "$VMSEC_HOST"
    iniset -sudo "$VMSEC_CONF" messaging transport_url \
        "$(get_transport_url)"
    iniset -sudo "$VMSEC_CONF" database connection "$VMSEC_DATABASE"
    iniset -sudo "$VMSEC_CONF" tpm kmc_tcti "$VMSEC_KMC_TCTI"
    iniset -sudo "$VMSEC_CONF" tpm node_tcti "$VMSEC_NODE_TCTI"
    iniset -sudo "$VMSEC_CONF" api socket "$VMSEC_RUN_DIR/api.sock"
    iniset -sudo "$VMSEC_CONF" agent socket "$VMSEC_RUN_DIR/agent.sock"
    iniset -sudo "$VMSEC_CONF" agent hook_directory "$VMSEC_HOOKS"
    iniset -sudo "$VMSEC_CONF" agent libvirt_uri "$VMSEC_LIBVIRT_URI"
    iniset -sudo "$VMSEC_CONF" agent protect "$VMSEC_PROTECT"
}

# nova tells the controller where a VM is placed and when it is deleted.
function configure_vmsec_nova {
    local conf
    for conf in "${NOVA_CONF:-}" "${NOVA_CPU_CONF:-}"; do
        if [ -z "$conf" ] || [ ! -e "$conf" ]; then continue; fi
        iniset "$conf" oslo_messaging_notifications driver messagingv2
        iniset "$conf" notifications notification_format both
        iniset "$conf" notifications notify_on_state_change vm_and_task_state
    done
}

# libvirtd calls a first hook script after a reload only.
function install_vmsec_hook {
    sudo "$(vmsec_bin vmsec)" hook install --config-file "$VMSEC_CONF"
    if sudo systemctl -q is-active libvirtd 2> /dev/null; then
        sudo systemctl reload libvirtd
    fi
}

function start_vmsec {
    local service
    for service in $VMSEC_SERVICES; do
        if is_service_enabled "$service"; then
            run_process "$service" \
                "$(vmsec_bin "$service") --config-file $VMSEC_CONF" "" root
        fi
    done
}

function wait_for_vmsec_api {
    local deadline=$((SECONDS + VMSEC_START_SECONDS))
    until sudo "$(vmsec_bin vmsec)" --api-socket "$VMSEC_RUN_DIR/api.sock" \
        "$@" > /dev/null; do
        if [ $SECONDS -ge $deadline ]; then
            die $LINENO "vmsec $* did not succeed in $VMSEC_START_SECONDS s"
        fi
        sleep 1
    done
}

# The node of this host; others: vmsec node enroll NAME on the controller.
function enroll_vmsec_node {
    if is_service_enabled vmsec-api && is_service_enabled vmsec-agent; then
        wait_for_vmsec_api node enroll "$VMSEC_HOST"
        wait_for_vmsec_api doctor
    fi
}

function stop_vmsec {
    local service
    # those who ask before those who answer
    for service in vmsec-api vmsec-controller vmsec-agent vmsec-kmc; do
        stop_process "$service"
    done
}

# Disks that are still sealed need the KMC's state: it is removed with the
# data of DevStack only, by clean.sh.
function clean_vmsec {
    if [ -e "$VMSEC_CONF" ]; then
        sudo "$(vmsec_bin vmsec)" hook remove --config-file "$VMSEC_CONF"
    fi
    sudo rm -rf "$VMSEC_CONF_DIR" "$VMSEC_STATE_PATH" "$VMSEC_RUN_DIR"
}

if is_vmsec_enabled; then
    case "$1 ${2:-}" in
        "stack pre-install")
            echo_summary "Installing the packages of vmsec"
            install_vmsec_packages
            ;;
        "stack install")
            echo_summary "Installing vmsec"
            install_vmsec
            ;;
        "stack post-config")
            echo_summary "Configuring vmsec"
            configure_vmsec
            configure_vmsec_nova
            ;;
        "stack extra")
            echo_summary "Starting vmsec"
            if is_service_enabled vmsec-agent; then install_vmsec_hook; fi
            start_vmsec
            enroll_vmsec_node
            ;;
        "unstack ")
            stop_vmsec
            ;;
        "clean ")
            clean_vmsec
            ;;
    esac
fi
