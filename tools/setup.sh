# shellcheck shell=bash
# Sourced by tools/demo and tools/test: a virtual environment with inspectd in it.
# Standard output belongs to the caller's command: everything here speaks on standard error.

say() { printf 'inspectd: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Install Debian or Ubuntu packages; false where this user may not.
apt_install() {
    command -v apt-get >/dev/null || return 1
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || return 1
        root=(sudo)
        [ -t 0 ] || root=(sudo -n)
        "${root[@]}" true 2>/dev/null || return 1
    fi
    local install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get install --yes --quiet --no-install-recommends "$@")
    say "installing $*"
    "${install[@]}" </dev/null >&2 && return
    say "refreshing the package lists"  # never fetched, or older than the archive
    "${root[@]}" apt-get update --quiet </dev/null >&2 && "${install[@]}" </dev/null >&2
}

# True where $1 starts and is a Python that inspectd supports. A version manager's shim is on the
# path for versions that it does not have, so only running it tells.
is_suitable() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# Print the first suitable Python: the machine's own, then the newest.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
        if is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Make the virtual environment $1, or mend one that was cut off half-way.
make_venv() {
    local venv=$1 python version
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv: expected a virtual environment or nothing, found other files"
    fi
    is_suitable "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    if ! python=$(find_python); then
        apt_install python3 || true  # an archive may hold one that is too new
        python=$(find_python) ||
            die "expected Python 3.10 to 3.13 on the path, found $(python3 -V 2>&1 || echo none)"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then  # Debian keeps them apart
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "python$version-venv" ||
            die "$python has no venv module: run 'apt-get install python$version-venv' as root"
    fi
    say "creating $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv" >&2 || die "$venv: cannot create the virtual environment"
}

# Bring what the wheel of GenICam looks for beside Python: Debian has libpython in a package of its own.
bring_libpython() {  # for the virtual environment $1
    local python=$1/bin/python package
    "$python" -c 'import genicam' 2>/dev/null || return 0
    "$python" -c 'import genicam.gentl' 2>/dev/null && return
    package=$("$python" -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])')
    apt_install "$package" ||
        say "GenICam cameras need $package: run 'apt-get install $package' as root"
}

# Install the checkout $1, editable, with the extras $3 into the virtual environment $2.
# A stamp remembers what was installed, so that nothing happens until the dependencies change.
install_inspectd() {
    local checkout=$1 venv=$2 extras=$3 stamp wanted
    stamp=$venv/inspectd-${extras//,/-}.stamp
    wanted="$checkout $(cat "$checkout/pyproject.toml" "$checkout/constraints.txt" | sha256sum)"
    if [ -x "$venv/bin/inspectd" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    make_venv "$venv"
    say "installing inspectd[$extras] into $venv: some minutes the first time"
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
        --constraint "$checkout/constraints.txt" --editable "${checkout}[$extras]" </dev/null >&2 ||
        die "pip could not install inspectd[$extras]: the reason stands above"
    bring_libpython "$venv"
    echo "$wanted" >"$stamp"
}
