#!/bin/sh
# Bring mosquitto for the MQTT 5 tests where that needs nobody's consent: as root, on Debian
# and its kin, without starting it as a service. Elsewhere those tests say why they skip.
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "mosquitto is not installed: the MQTT 5 tests will be skipped"
    exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
{ apt-get -qq update && apt-get -qq install --no-install-recommends mosquitto; } >/dev/null 2>&1 ||
    echo "mosquitto could not be installed: the MQTT 5 tests will be skipped"
