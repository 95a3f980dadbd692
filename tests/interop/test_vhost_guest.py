# SPDX-License-Identifier: BSD-2-Clause
"""A Linux guest in QEMU with a vhost-user-blk disk: file system, discard, queues, resizing, crashes on either side."""

import hashlib
import os
import re
import signal

import pytest

from support import guest, images, process, sandbox, vhost
from support.images import MIB
from support.qmp import Qmp

pytestmark = pytest.mark.qemu

FILE_BYTES = 8 * MIB

# Data that the test can compute, too: a counter, hashed.
FILE_SYSTEM = f"""
check mkfs.ext4 -q -F /dev/vda
check mount -t ext4 /dev/vda /mnt
seq 1 {FILE_BYTES // 8} | head -c {FILE_BYTES} >/mnt/data
sync
check umount /mnt
check e2fsck -f -n /dev/vda
check mount -t ext4 /dev/vda /mnt
say sum $(sha256sum </mnt/data)
"""


def expected_sum():
    text = "".join(f"{n}\n" for n in range(1, FILE_BYTES // 8 + 1)).encode()[:FILE_BYTES]
    return hashlib.sha256(text).hexdigest()


def sum_of(said):
    return next(line.split()[1] for line in said if line.startswith("sum "))


def check_from_outside(path, tmp):
    """The image by itself: the file system is clean, and the file in it what the guest wrote."""
    process.need("debugfs", "e2fsck")
    process.run("e2fsck", "-f", "-n", path)
    process.run("debugfs", "-R", f"dump /data {tmp / 'data'}", path)
    assert hashlib.sha256((tmp / "data").read_bytes()).hexdigest() == expected_sum()


@pytest.fixture
def disk(server, image):
    path = image(size=128 * MIB)
    server.add_file("disk", path, discard="unmap")
    return path


@pytest.mark.parametrize("packed", ["off", "on"], ids=["split", "packed"])
def test_a_file_system_survives(server, disk, tmp, packed):
    path = vhost.export(server, "disk", **{"num-queues": 1})
    machine = guest.Guest(tmp, FILE_SYSTEM + "check umount /mnt\n",
                          guest.vhost_disk(path, num_queues=1, packed=packed))
    assert sum_of(machine.finish()) == expected_sum()
    vhost.remove(server, "exp-disk")
    check_from_outside(disk, tmp)


@pytest.mark.guest
def test_four_queues(server, disk, tmp):
    """Four processors, each with its queue: eight writers at once, then all is read back."""
    script = """
    say queues $(ls /sys/block/vda/mq | wc -l)
    i=0
    while [ $i -lt 8 ]; do
        seq $i 8 2999999 | dd of=/dev/vda bs=64k seek=$((i * 128)) count=16 iflag=fullblock conv=notrunc 2>/dev/null &
        i=$((i + 1))
    done
    wait
    sync
    echo 3 >/proc/sys/vm/drop_caches
    i=0
    while [ $i -lt 8 ]; do
        a=$(seq $i 8 2999999 | head -c 1048576 | sha256sum)
        b=$(dd if=/dev/vda bs=64k skip=$((i * 128)) count=16 2>/dev/null | sha256sum)
        [ "$a" = "$b" ] && say same $i || say FAILED writer $i
        i=$((i + 1))
    done
    grep -E 'virtio.*req' /proc/interrupts | while read line; do say irq $line; done
    """
    path = vhost.export(server, "disk", **{"num-queues": 4})
    machine = guest.Guest(tmp, script, guest.vhost_disk(path, num_queues=4), cpus=4)
    said = machine.finish()
    assert "queues 4" in said
    assert [line for line in said if line.startswith("same")] == [f"same {i}" for i in range(8)]
    irqs = [line.split() for line in said if line.startswith("irq")]
    busy = [words for words in irqs if sum(int(word) for word in words[2:6]) > 0]
    assert len(irqs) == 4 and len(busy) >= 3, said


@pytest.mark.guest
def test_discard_gives_the_space_back(server, disk, tmp):
    script = """
    say discard $(cat /sys/block/vda/queue/discard_max_bytes)
    check mkfs.ext4 -q -F /dev/vda
    check mount -t ext4 -o discard /dev/vda /mnt
    dd if=/dev/urandom of=/mnt/junk bs=1M count=16 2>/dev/null
    sync
    ask full
    rm /mnt/junk
    sync
    check fstrim /mnt
    ask trimmed
    check umount /mnt
    check blkdiscard /dev/vda
    """
    path = vhost.export(server, "disk")
    machine = guest.Guest(tmp, script, guest.vhost_disk(path))
    machine.until("?", "full")
    assert images.allocated(disk) > 16 * MIB
    machine.answer()
    machine.until("?", "trimmed")
    assert images.allocated(disk) < 16 * MIB
    machine.answer()
    machine.finish()
    assert images.allocated(disk) < MIB


@pytest.mark.guest
def test_a_new_size_is_seen_in_the_guest(server, disk, tmp):
    script = """
    say size $(cat /sys/block/vda/size)
    ask grow
    while [ $(cat /sys/block/vda/size) = 262144 ]; do usleep 20000; done
    say size $(cat /sys/block/vda/size)
    echo end-of-disk | dd of=/dev/vda bs=512 seek=524287 conv=notrunc 2>/dev/null
    sync
    """
    path = vhost.export(server, "disk")
    machine = guest.Guest(tmp, script, guest.vhost_disk(path))
    assert "size 262144" in machine.until("?", "grow")
    server.qmp.cmd("block_resize", {"node-name": "disk", "size": 256 * MIB})
    machine.answer()
    assert "size 524288" in machine.finish()
    assert images.read(disk, 256 * MIB - 512, 11) == b"end-of-disk"


@pytest.mark.guest
def test_the_guest_sees_serial_block_size_and_cache(server, disk, tmp):
    script = """
    say serial $(cat /sys/block/vda/serial)
    say block $(cat /sys/block/vda/queue/logical_block_size)
    say cache $(cat /sys/block/vda/queue/write_cache)
    say ro $(cat /sys/block/vda/ro)
    say segments $(cat /sys/block/vda/queue/max_segments)
    echo 'write through' >/sys/block/vda/cache_type
    say type $(cat /sys/block/vda/cache_type)
    """
    path = vhost.export(server, "disk", "vm7-root", **{"logical-block-size": 4096})
    said = guest.Guest(tmp, script, guest.vhost_disk(path)).finish()
    assert {"serial vm7-root", "block 4096", "cache write back", "ro 0", "segments 126",
            "type write through"} <= set(said), said


@pytest.mark.guest
def test_a_read_only_disk(server, disk, tmp):
    script = """
    say ro $(cat /sys/block/vda/ro)
    dd if=/dev/vda of=/dev/null bs=1M count=4 2>/dev/null && say read
    dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>/dev/null || say refused
    """
    path = vhost.export(server, "disk", writable=False)
    said = guest.Guest(tmp, script, guest.vhost_disk(path)).finish()
    assert {"ro 1", "read", "refused"} <= set(said)


STARTUP = """@echo -off
map -r
for %a in 0 1 2 3
  if exist fs%a:\\ro.txt then
    type fs%a:\\ro.txt
  endif
  if exist fs%a:\\rw.txt then
    cp fs%a:\\rw.txt fs%a:\\copy.txt
    type fs%a:\\copy.txt
  endif
endfor
reset -s
"""


@pytest.mark.guest
def test_uefi_firmware_reads_and_writes(server, image, tmp):
    """It drives one queue of several, and flushes also the disk that is read-only."""
    guest.need_uefi()
    disks = {}
    for name in ("rw", "ro"):
        disks[name] = image(f"{name}.img", size=8 * MIB)
        (tmp / "text").write_text(f"this is {name}\n")
        process.run("mformat", "-i", disks[name], "::")
        process.run("mcopy", "-i", disks[name], tmp / "text", f"::{name}.txt")
        server.add_file(name, disks[name])
    (tmp / "startup.nsh").write_text(STARTUP)
    process.run("mcopy", "-i", disks["rw"], tmp / "startup.nsh", "::startup.nsh")
    before = images.read(disks["ro"])
    devices = []
    for name, queues in (("rw", 4), ("ro", 2)):
        path = vhost.export(server, name, writable=name == "rw", **{"num-queues": queues})
        devices += ["-chardev", f"socket,id={name},path={path}", "-device", f"vhost-user-blk-pci,chardev={name},num-queues={queues}"]
    assert "this is ro" in guest.uefi(tmp, devices)
    for name in ("rw", "ro"):
        vhost.remove(server, f"exp-{name}")
    assert "this is rw" in process.output("mtype", "-i", disks["rw"], "::copy.txt")
    assert images.read(disks["ro"]) == before


@pytest.mark.guest
def test_a_writethrough_export_has_no_cache_for_the_guest(server, disk, tmp):
    path = vhost.export(server, "disk", writethrough=True)
    said = guest.Guest(tmp, "say cache $(cat /sys/block/vda/queue/write_cache)\n", guest.vhost_disk(path)).finish()
    assert "cache write through" in said


@pytest.mark.guest
def test_qemu_is_killed_and_started_again(server, disk, tmp):
    """Twice: in the middle of writes, the export serves the next machine, and what was synced is there."""
    path = vhost.export(server, "disk")
    machine = guest.Guest(tmp, FILE_SYSTEM + """
    say written
    while true; do dd if=/dev/zero of=/mnt/more bs=64k count=200 conv=fsync 2>/dev/null; done
    """, guest.vhost_disk(path))
    assert sum_of(machine.until("@", "written")) == expected_sum()
    machine.kill()
    machine = guest.Guest(tmp, """
    check mount -t ext4 /dev/vda /mnt
    say sum $(sha256sum </mnt/data)
    rm -f /mnt/more
    check umount /mnt
    """, guest.vhost_disk(path))
    assert sum_of(machine.finish()) == expected_sum()
    vhost.remove(server, "exp-disk")
    check_from_outside(disk, tmp)


@pytest.mark.parametrize("packed", ["off", "on"], ids=["split", "packed"])
def test_the_worker_is_killed_under_a_running_guest(server, disk, tmp, packed):
    """QEMU connects again by itself; requests that were in flight are done again: no error in the guest."""
    server.deaths_expected = True
    path = vhost.export(server, "disk")
    machine = guest.Guest(tmp, f"""
    check mkfs.ext4 -q -F /dev/vda
    check mount -t ext4 -o errors=panic /dev/vda /mnt
    seq 1 {FILE_BYTES // 8} | head -c {FILE_BYTES} >/tmp/data
    round=0
    while [ $round -lt 5 ]; do
        say round $round
        dd if=/tmp/data of=/mnt/data bs=64k conv=fsync 2>/dev/null || say FAILED write
        dd if=/tmp/data of=/mnt/data bs=4k oflag=direct conv=notrunc 2>/dev/null || say FAILED write
        round=$((round + 1))
    done
    echo 3 >/proc/sys/vm/drop_caches
    say sum $(sha256sum </mnt/data)
    check umount /mnt
    """, guest.vhost_disk(path, reconnect=1, packed=packed))
    for round_ in range(1, 4):
        machine.until("@", f"round {round_}")
        os.kill(server.export_worker("exp-disk")["pid"], signal.SIGKILL)
        server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
        vhost.export(server, "disk")
    assert sum_of(machine.finish()) == expected_sum()
    log = server.log_text()
    assert "was dropped" not in log, log


@pytest.mark.guest
def test_a_guest_migrates_while_it_works(server, disk, tmp, engine):
    """
    Live, from one QEMU and export to another of each, rings and data going on where they were. That each page that the
    worker wrote to is marked is shown by vhost-test's dirty_log: a page that is forgotten here is not always missed.
    """
    if engine != "auto" or sandbox.is_sanitized(server.build / "bulkhead-vhost"):
        pytest.skip("takes long; shown with the default engine, without sanitizers")
    script = f"""
    check mkfs.ext4 -q -F /dev/vda
    check mount -t ext4 -o errors=panic /dev/vda /mnt
    seq 1 {FILE_BYTES // 8} | head -c {FILE_BYTES} >/mnt/data
    sync
    before=$(sha256sum </mnt/data)
    say busy
    while [ ! -e /tmp/stop ]; do
        # Reads fill page after page of memory; each must arrive.
        echo 3 >/proc/sys/vm/drop_caches
        [ "$(sha256sum </mnt/data)" = "$before" ] || say FAILED read
        read -t 0 x && touch /tmp/stop
    done
    say sum $(sha256sum </mnt/data)
    check umount /mnt
    """
    folders = [tmp / "source", tmp / "target"]
    for folder in folders:
        folder.mkdir()
    paths = [vhost.export(server, "disk", name) for name in ("source", "target")]
    source, target = [
        guest.Guest(folder, script, guest.vhost_disk(path) + ["-qmp", f"unix:{folder}/qmp,server=on,wait=off", *more])
        for folder, path, more in zip(folders, paths, ([], ["-incoming", f"unix:{tmp}/migration"]))]
    source.until("@", "busy")
    process.wait_for(lambda: (tmp / "migration").exists(), "the target to listen")
    with Qmp.connect(folders[0] / "qmp") as control:
        control.cmd("migrate-set-parameters", {"downtime-limit": 2000, "max-bandwidth": 1 << 30})
        control.cmd("migrate", {"uri": f"unix:{tmp}/migration"})
        process.wait_for(lambda: migration_status(control) == "completed", "the migration to end", 120)
    source.kill()
    target.answer()
    assert sum_of(target.finish()) == expected_sum()
    for name in ("source", "target"):
        vhost.remove(server, name)
    check_from_outside(disk, tmp)


def migration_status(control):
    status = control.cmd("query-migrate")["status"]
    assert status not in ("failed", "cancelled"), control.cmd("query-migrate")
    return status


@pytest.mark.guest
def test_an_image_on_disk_with_o_direct(server, disk_image, tmp):
    image = disk_image(size=128 * MIB)
    server.add_file("disk", image, cache={"direct": True})
    path = vhost.export(server, "disk")
    machine = guest.Guest(tmp, FILE_SYSTEM + "check umount /mnt\n", guest.vhost_disk(path))
    assert sum_of(machine.finish()) == expected_sum()
    vhost.remove(server, "exp-disk")
    check_from_outside(image, tmp)
