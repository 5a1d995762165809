# shellcheck shell=bash
# shellcheck disable=SC2034
# What the kernel's scripts share: where things lie, the pin, the steps with their times, and the
# hash that names a build. Sourced, never run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# Work and results. Nothing outside the checkout is needed; the cache saves time where it is
# writable.
build=${KERNEL_BUILD:-$root/build/kernel}
cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/basalt/kernel
fragments=("$here"/fragments/[0-9][0-9]-*.config)

# shellcheck source=kernel-config/source.pin
source "$here/source.pin"
deb=${PIN_PACKAGE}_${PIN_VERSION}_all.deb
# Where Debian publishes newer ones.
sources=(
    "http://deb.debian.org/debian-security trixie-security"
    "http://deb.debian.org/debian trixie"
)
# What configures and builds: part of the hash, because it decides what comes out.
recipe=("$here/source.pin" "$here/configure" "$here/build")

die() {
    echo "error: $*" >&2
    exit 1
}

# step TEXT COMMAND...: runs the command, says what it is and how long it took.
step() {
    local text=$1 start=$SECONDS
    shift
    echo "kernel: $text ..."
    "$@"
    echo "kernel: $text: $((SECONDS - start)) s"
}

# verified DIR: every file named in DIR's own checksum file is there and unchanged, and the three
# that the image takes are among those named.
verified() {
    local name
    [ -f "$1/SHA256SUMS" ] || return 1
    for name in vmlinuz config System.map; do
        grep -q "  $name\$" "$1/SHA256SUMS" || return 1
    done
    (cd "$1" && sha256sum --check --strict --status SHA256SUMS)
}

# The hash of all that decides the result: pin, fragments, recipe, and the tools that compile.
# The same inputs give the same name on every machine.
inputs_hash() {
    {
        (cd "$here" && sha256sum "${recipe[@]#"$here"/}")
        # What the fragments ask for, in their order; comments change nothing.
        sed -nE '/^(# )?CONFIG_/p' "${fragments[@]}"
        "${CC:-gcc}" --version | head -1
        ld --version | head -1
    } | sha256sum | cut -c1-16
}

# cache_writable: whether the cache outside the checkout can be used.
cache_writable() {
    mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ]
}
