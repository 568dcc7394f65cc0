#!/bin/sh
# Installs what the tests run and no wheel brings, from Debian where that can be done: RabbitMQ, Prometheus (promtool), Chromium.
# What is missing and cannot be installed is told in one line; where all is there, apt-get is not even asked.
# The packages would start a server at once and at every boot; the tests start their own, so these are kept from that.
set -u

is_there() {
    case $1 in
    rabbitmq-server) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server ;;
    prometheus) command -v prometheus && command -v promtool ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

skip() {
    echo "$1 $2; its tests will be skipped, in CI they will fail" >&2
}

skip_all() {
    for package in $missing; do
        skip "$package" "is not installed$1"
    done
    exit 0
}

missing=
for package in rabbitmq-server prometheus chromium; do
    is_there "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null 2>&1 || skip_all ", and there is no apt-get"
[ "$(id -u)" = 0 ] || skip_all ": apt-get needs root to install it"

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
cleanup() {
    rm -f "$log"
    [ -z "$made_policy" ] || rm -f "$policy"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >"$log" 2>&1
# One at a time: a package that cannot be had keeps no other away.
for package in $missing; do
    echo "installing Debian's $package, for the tests"
    if apt-get install -y -qq --no-install-recommends "$package" >"$log" 2>&1 && is_there "$package"; then
        systemctl disable --quiet "$package" >/dev/null 2>&1
    else
        skip "$package" "could not be installed by apt-get ($(grep -m1 '^E:' "$log" || tail -n1 "$log"))"
    fi
done
exit 0
