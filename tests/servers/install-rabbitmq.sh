#!/bin/sh
# Installs Debian's RabbitMQ for the tests where that can be done, and says in one line where it cannot.
# The package would start a server at once and at every boot; the tests start their own, so it is kept from that.
set -u

skip() {
    echo "rabbitmq: $1; its tests will be skipped" >&2
    exit 0
}

[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && exit 0
command -v rabbitmq-server >/dev/null 2>&1 && exit 0
command -v apt-get >/dev/null 2>&1 || skip "rabbitmq-server is not installed, and there is no apt-get"
[ "$(id -u)" = 0 ] || skip "rabbitmq-server is not installed: apt-get install rabbitmq-server, as root"

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

echo "rabbitmq: installing Debian's rabbitmq-server"
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends rabbitmq-server; } >"$log" 2>&1 && exit 0
skip "apt-get could not install rabbitmq-server ($(grep -m1 '^E:' "$log" || tail -n1 "$log"))"
