#!/bin/sh
# Boots a real systemd as process 1 of namespaces of its own, with luod as a service of it, and runs the probe.
#   unshare --fork --pid --kill-child --mount --mount-proc --uts --ipc test/systemd/boot.sh FOLDER NODE ROOT
set -eu
folder=$1 node=$2 root=$3
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/systemd /run/systemd/system
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd

# The store is told of in the environment since systemd 254; an older one needs it said.
cat > /run/systemd/system/luod.service <<UNIT
[Unit]
DefaultDependencies=no
[Service]
Type=notify
ExecStart=$node $root/dist/cli/luod.js serve --socket /run/luod/liveupdate.sock
Environment=FDSTORE=1000
FileDescriptorStoreMax=1000
KillMode=process
Restart=on-failure
RestartSec=100ms
WatchdogSec=10s
RuntimeDirectory=luod
RuntimeDirectoryPreserve=yes
StandardError=append:$folder/luod.log
UNIT
cat > /run/systemd/system/probe.service <<UNIT
[Unit]
DefaultDependencies=no
After=luod.service
Wants=luod.service
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=$node $root/test/systemd/probe.mjs $root
TimeoutStartSec=60s
StandardOutput=append:$folder/probe.log
StandardError=append:$folder/probe.log
UNIT
exec env container=liveupdate /lib/systemd/systemd --system --unit=probe.service --log-target=console
