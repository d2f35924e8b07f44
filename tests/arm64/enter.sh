#!/bin/sh
# Run a command in the root file system, from within a mount and a process namespace of its own:
# what is mounted and started here ends with it.
#
#     unshare --mount --pid --fork --kill-child sh enter.sh ROOT VENV WORK CPU DATA COMMAND...
#
# ROOT is a Debian for arm64; VENV appears there as /opt/venv, WORK as /work, and the data sets
# of DATA, read only, as /data (DATA is "" where there are none). CPU holds what the emulated
# processors say of themselves: the machine's own /sys would crash onnxruntime.
set -eu
root=$1 venv=$2 work=$3 cpu=$4 data=$5
shift 5
mkdir -p "$root/opt/venv" "$root/work" "$root/data"
mount -t proc proc "$root/proc"
mount --bind "$cpu/cpuinfo" "$root/proc/cpuinfo"
mount --bind "$cpu/sys" "$root/sys"
mount --rbind /dev "$root/dev"
for place in tmp run root; do
    mount -t tmpfs tmpfs "$root/$place"
done
mount --bind "$venv" "$root/opt/venv"
mount --bind "$work" "$root/work"
if [ -n "$data" ]; then
    mount --bind "$data" "$root/data"
    mount -o remount,bind,ro "$root/data"
fi
chroot "$root" "$@"
