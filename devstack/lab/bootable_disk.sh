#!/bin/bash
# Build a small disk that boots by itself, without loop device or mount.
#
#   bootable_disk.sh [--kind mbr|uefi] [--cache DIR] [--size MIB] [--tree DIR]
#                    [--cmdline "PARAMETER ..."] OUT.img
#
# The guest is Debian's cloud kernel and a static busybox. On ttyS0 it prints
#   VMSEC-BOOT-MARKER boot=N uptime=S root=DEVICE sum=DIGEST
# where N counts up on the disk (so writing is proved) and the digest is that
# of /etc/payload; it powers off on the ACPI button, and otherwise gives a
# shell. The kernel parameter act=poweroff makes it power off by itself.
#
#   mbr   LBA 0 boot code and table | GRUB from LBA 1 | p1 ext4 from 1 MiB
#   uefi  GPT | p1 ESP from 1 MiB with GRUB | p2 ext4 from 5 MiB
#
# --cache keeps the unpacked kernel and busybox (28 MB to download), so that
# a second build takes about a second. --tree adds a directory's content to
# the root file system. Two builds differ in time stamps of inodes only.
set -euo pipefail

label=vmsecroot
fs_uuid=6f0c1d2e-0000-4000-8000-00000000beef
epoch=1700000000
kind=mbr cache='' size=96 tree='' cmdline='' out=''
PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "bootable_disk.sh: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --kind) kind=$2; shift 2 ;;
        --cache) cache=$2; shift 2 ;;
        --size) size=$2; shift 2 ;;
        --tree) tree=$2; shift 2 ;;
        --cmdline) cmdline=$2; shift 2 ;;
        -*) fail "unknown option $1; the head of this file has the list" ;;
        *) out=$1; shift ;;
    esac
done
[ -n "$out" ] || fail "name the image to write"
case $kind in mbr | uefi) ;; *) fail "kind $kind: mbr or uefi" ;; esac

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cache=${cache:-$tmp/cache}

kernel_package() {      # the meta package depends on the kernel of the day
    apt-cache depends linux-image-cloud-amd64 2> /dev/null |
        sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1
}

download() {            # PACKAGE: into the current directory
    apt-get -qq -o APT::Sandbox::User=root download "$1" > /dev/null 2>&1
}

unpack() {              # PACKAGE DIR: not installed; the directory is whole or absent
    rm -rf "$2.part"
    mkdir -p "$2.part"
    (
        cd "$2.part"
        download "$1" || { apt-get -qq update && download "$1"; } ||
            fail "cannot download $1: run apt-get update and try again"
        dpkg-deb -x ./*.deb .
        rm ./*.deb
    )
    mv "$2.part" "$2"
}

fetch() {
    mkdir -p "$cache"
    exec 9> "$cache/lock"
    flock 9
    if [ ! -d "$cache/kernel" ]; then
        [ -n "$(kernel_package)" ] || apt-get -qq update ||
            fail "apt-get update failed: the package lists are needed once"
        unpack "$(kernel_package)" "$cache/kernel"
    fi
    if [ ! -d "$cache/busybox" ]; then unpack busybox-static "$cache/busybox"; fi
    exec 9>&-
    busybox=$cache/busybox/bin/busybox
    if [ ! -e "$busybox" ]; then busybox=$cache/busybox/usr/bin/busybox; fi
}

# virtio_ring before virtio, else "Unknown symbol virtio_break_device"
modules="drivers/virtio/virtio_ring drivers/virtio/virtio
    drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci_legacy_dev
    drivers/virtio/virtio_pci drivers/block/virtio_blk drivers/acpi/button
    drivers/input/evdev"

initramfs() {           # OUT: find the root by its label and switch to it
    local root=$tmp/initramfs module file names=''
    mkdir -p "$root"/{bin,proc,sys,dev,modules,newroot}
    cp "$busybox" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    for module in $modules; do
        names="$names ${module##*/}"
        file=$(echo "$cache"/kernel/lib/modules/*/kernel/"$module".ko*)
        case $file in
            *.xz) xz -dc "$file" > "$root/modules/${module##*/}.ko" ;;
            *) cp "$file" "$root/modules/" ;;
        esac
    done
    cat > "$root/init" <<INIT
#!/bin/sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
for m in $names; do insmod /modules/\$m.ko; done
i=0
while ! findfs LABEL=$label > /dev/null 2>&1 && [ \$i -lt 50 ]; do sleep 0.1; i=\$((i+1)); done
device=\$(findfs LABEL=$label) || { echo VMSEC-NO-ROOT; exec sh; }
mount -t ext4 -o rw \$device /newroot || { echo VMSEC-MOUNT-FAILED; exec sh; }
umount /proc /sys; mount --move /dev /newroot/dev
exec switch_root /newroot /sbin/init
INIT
    chmod +x "$root/init"
    find "$root" -exec touch -h -d @$epoch {} +
    (cd "$root" && find . | LC_ALL=C sort |
        cpio -o -H newc --reproducible --quiet | gzip -1n) > "$1"
}

write_init() {          # PATH: the guest's first process
    cat > "$1" <<'INIT'
#!/bin/sh
export PATH=/bin:/sbin
/bin/busybox --install -s /bin 2> /dev/null
mount -t proc none /proc; mount -t sysfs none /sys
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
n=$(( $(cat /etc/boots 2> /dev/null || echo 0) + 1 )); echo $n > /etc/boots; sync
root=$(grep ' / ' /proc/mounts | tail -1 | cut -d' ' -f1)
sum=$(sha256sum /etc/payload | cut -c1-16)
for e in /sys/class/input/event*; do
    if [ "$(cat $e/device/name 2> /dev/null)" = "Power Button" ]; then
        ( head -c 24 /dev/input/${e##*/} > /dev/null
          sync; mount -o remount,ro /; poweroff -f ) &
    fi
done
echo "VMSEC-BOOT-MARKER boot=$n uptime=$(cut -d' ' -f1 /proc/uptime) root=$root sum=$sum"
case " $(cat /proc/cmdline) " in
    *" act=poweroff "*) sync; mount -o remount,ro /; poweroff -f ;;
    *" act=reboot "*) sync; mount -o remount,ro /; reboot -f ;;
esac
exec sh
INIT
    chmod +x "$1"
}

root_tree() {           # ROOT: everything that the ext4 file system holds
    mkdir -p "$1"/{boot/grub,bin,sbin,proc,sys,dev,etc,tmp,root}
    if [ -n "$tree" ]; then cp -a "$tree/." "$1/"; fi
    cp "$cache"/kernel/boot/vmlinuz-* "$1/boot/vmlinuz"
    initramfs "$1/boot/initrd.gz"
    cp "$busybox" "$1/bin/busybox"
    ln -s busybox "$1/bin/sh"
    write_init "$1/sbin/init"
    head -c 65536 /dev/zero | openssl enc -aes-128-ctr -iv 0 \
        -K 00112233445566778899aabbccddeeff 2> /dev/null > "$1/etc/payload"
    cat > "$1/boot/grub/grub.cfg" <<GRUB
serial --unit=0 --speed=115200
terminal_output serial
set timeout=0
search --no-floppy --label $label --set=root
linux /boot/vmlinuz console=ttyS0 quiet nokaslr init=/sbin/init $cmdline
initrd /boot/initrd.gz
boot
GRUB
    find "$1" -exec touch -h -d @$epoch {} +
}

partition() {           # IMAGE
    truncate -s "${size}M" "$1"
    if [ "$kind" = mbr ]; then
        sfdisk -q "$1" <<TABLE
label: dos
label-id: 0xbeefcafe
start=2048, type=83, bootable
TABLE
    else
        sfdisk -q "$1" <<TABLE
label: gpt
label-id: 11111111-2222-4333-8444-555555555555
start=2048, size=8192, type=U, uuid=11111111-2222-4333-8444-555555555556
start=10240, type=L, uuid=11111111-2222-4333-8444-555555555557
TABLE
    fi
}

file_system() {         # IMAGE
    local offset=1
    if [ "$kind" = uefi ]; then offset=5; fi
    E2FSPROGS_FAKE_TIME=$epoch mke2fs -q -t ext4 -b 4096 -L $label -U $fs_uuid \
        -E offset=$((offset << 20)),hash_seed=$fs_uuid,root_owner=0:0 \
        -d "$tmp/root" "$1" $(((size - offset - 1) << 10))k
}

grub="ext2 linux normal search search_label serial terminal boot echo configfile"

boot_loader_mbr() {     # IMAGE
    local core=$tmp/core.img
    # shellcheck disable=SC2086  # a list of words
    grub-mkimage -O i386-pc -o "$core" -p "(hd0,msdos1)/boot/grub" \
        biosdisk part_msdos $grub
    [ "$(stat -c %s "$core")" -le $((2047 * 512)) ] ||
        fail "GRUB does not fit into the gap before 1 MiB"
    # 440 bytes: the partition table at 446 stays. boot.img loads LBA 1;
    # grub-mkimage has filled in the block list of diskboot.img there.
    dd if=/usr/lib/grub/i386-pc/boot.img of="$1" bs=440 count=1 \
        conv=notrunc status=none
    dd if="$core" of="$1" bs=512 seek=1 conv=notrunc status=none
}

boot_loader_uefi() {    # IMAGE
    local core=$tmp/BOOTX64.EFI
    # shellcheck disable=SC2086  # a list of words
    grub-mkimage -O x86_64-efi -o "$core" -p "(hd0,gpt2)/boot/grub" \
        part_gpt fat $grub
    truncate -s 4M "$tmp/esp"
    mkfs.vfat -i 12345678 --invariant -n ESP "$tmp/esp" > /dev/null
    mmd -i "$tmp/esp" ::/EFI ::/EFI/BOOT
    mcopy -i "$tmp/esp" "$core" ::/EFI/BOOT/BOOTX64.EFI
    dd if="$tmp/esp" of="$1" bs=1M seek=1 conv=notrunc,sparse status=none
}

fetch
root_tree "$tmp/root"
rm -f "$out.part"
partition "$out.part"
file_system "$out.part"
"boot_loader_$kind" "$out.part"
mv "$out.part" "$out"
