# Shared by ./runtests and ./quickstart: packages and a virtual environment.
# Sourced by bash; expects the current directory to be the source tree.
# shellcheck shell=bash

VENV=$PWD/.work/venv
PATH=$PATH:/usr/sbin:/sbin
export PATH

as_root() {             # COMMAND...: by itself as root, else through sudo
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        echo "root is needed for: $*" >&2
        echo "run this as root, or install sudo" >&2
        return 1
    fi
}

listed_packages() {     # PROFILE...: of bindep.txt, and those without profile
    local profile pattern='\[platform:dpkg\]'
    for profile in "$@"; do
        pattern="$pattern|\[platform:dpkg [^]]*\b$profile\b[^]]*\]"
    done
    grep -E "^[a-z0-9].* ($pattern)" bindep.txt | cut -d' ' -f1
}

missing_packages() {    # PROFILE...
    local package
    for package in $(listed_packages "$@"); do
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null |
            grep -q 'ok installed' || echo "$package"
    done
}

install_packages() {    # PROFILE...
    local missing
    command -v dpkg-query > /dev/null || {
        echo "this is not Debian: install what bindep.txt names yourself" >&2
        return 0
    }
    missing=$(missing_packages "$@" | xargs)
    if [ -z "$missing" ]; then return 0; fi
    echo "installing $missing"
    as_root apt-get -qq update
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
        --no-install-recommends -o Dpkg::Use-Pty=0 $missing > /dev/null
}

make_environment() {    # [EXTRAS]: vmsec, editable, "test,lint" and the like
    local extras=${1:-} stamp sum
    stamp=$VENV/stamp-${extras:-plain}
    sum=$(cat setup.cfg pyproject.toml | sha256sum)
    if [ "$(cat "$stamp" 2> /dev/null)" = "$sum" ]; then return 0; fi
    echo "building the virtual environment ${VENV#"$PWD"/} ${extras:+($extras)}"
    if [ ! -x "$VENV/bin/python" ]; then
        mkdir -p "${VENV%/*}"
        "${PYTHON:-python3}" -m venv "$VENV"
    fi
    "$VENV/bin/pip" install -qq --disable-pip-version-check \
        -e ".${extras:+[$extras]}"
    echo "$sum" > "$stamp"
}
