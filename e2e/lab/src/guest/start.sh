#!/lab/busybox sh
# First process of the machine: file systems a distribution would mount, links to the disks by serial, the agent.
# The shell then waits for ever, which also buries orphans.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8
# Without udev, libdevmapper must make its nodes itself.
export DM_DISABLE_UDEV=1
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/shm /dev/pts /dev/lab /run/lock
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
hostname umbra
ip link set lo up 2>/dev/null || /lab/busybox ip link set lo up
for disk in /sys/block/vd*; do
    serial=$(cat "$disk/serial" 2>/dev/null)
    [ -n "$serial" ] && ln -s "../${disk##*/}" "/dev/lab/$serial"
done
echo 4 > /proc/sys/kernel/printk
while :; do
    /lab/agent
    echo "lab: the agent ended with $?"
    sleep 1
done
