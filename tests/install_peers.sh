#!/bin/sh
# Bring the programs that tests are held against where that needs nobody's consent: as root, on
# Debian and its kin, without starting them as services. Elsewhere those tests say why they skip.
# mosquitto and nats-server: MQTT 5 and a cluster; systemd-analyze: what the units expose;
# gst-launch-1.0, its RTSP server and ffmpeg: cameras and films; arecord: sound cards.
plugins="gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
wanted="mosquitto=mosquitto nats-server=nats-server systemd-analyze=systemd
gst-launch-1.0=gstreamer1.0-tools arecord=alsa-utils ffmpeg=ffmpeg"
missing=
for one in $wanted; do
    program=${one%%=*}
    command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing="$missing ${one#*=}"
done
/usr/bin/python3 -c 'import gi; gi.require_version("GstRtspServer", "1.0")' 2>/dev/null ||
    missing="$missing python3-gi gir1.2-gst-rtsp-server-1.0 $plugins"
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
for package in $missing; do # one by one: an older release may know only one of them
    apt-get -qq install --no-install-recommends "$package" >/dev/null 2>&1 ||
        echo "$package could not be installed: the tests that need it will be skipped"
done
