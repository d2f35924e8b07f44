#!/bin/sh
# Bring the programs that tests are held against where that needs nobody's consent: as root, on
# Debian and its kin, without starting them as services. Elsewhere those tests say why they skip.
# mosquitto and nats-server: MQTT 5 and a cluster; systemd-analyze: what the units expose.
missing=
for program in mosquitto nats-server systemd-analyze; do
    command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed:$missing; the tests that need them will be skipped"
    exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update >/dev/null 2>&1
for program in $missing; do # one by one: an older release may know only one of them
    package=$program
    [ "$program" != systemd-analyze ] || package=systemd
    apt-get -qq install --no-install-recommends "$package" >/dev/null 2>&1 ||
        echo "$package could not be installed: the tests that need it will be skipped"
done
