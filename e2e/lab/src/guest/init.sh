#!/bin/busybox sh
# First process of the RAM disk: mount the root disk over a tmpfs of nothing else, then become its first process.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
insmod /lab/virtio_blk.ko
root=
tries=0
while [ -z "$root" ] && [ $tries -lt 200 ]; do
    for disk in /sys/block/vd*; do
        [ "$(cat "$disk/serial" 2>/dev/null)" = umbra-root ] && root=/dev/${disk##*/}
    done
    tries=$((tries + 1))
    [ -n "$root" ] || sleep 0.05
done
mount -t ext4 -o noatime "$root" /sysroot || { echo "lab: no root disk"; poweroff -f; }
mkdir -p /sysroot/lab
cp -a /lab/agent /lab/start /bin/busybox /sysroot/lab/
rm -rf /sysroot/usr/lib/modules
cp -r /lab/modules /sysroot/usr/lib/modules
for each in proc sys dev; do mount --move /$each /sysroot/$each; done
exec switch_root /sysroot /lab/start
