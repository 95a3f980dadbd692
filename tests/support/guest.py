# SPDX-License-Identifier: BSD-2-Clause
"""
Virtual machines: QEMU without hardware acceleration, Debian's cloud kernel from its package, and an initramfs that is
made here of busybox, mkfs.ext4 and the kernel's virtio modules. A guest runs a shell script that the test gives it and
talks to the test over its serial console. Kernel and initramfs are given to QEMU, or lie on a disk that the machine's
firmware boots from (boot_disk()).
"""

import glob
import hashlib
import os
import pathlib
import re
import selectors
import subprocess
import time

import pytest

from . import process

MODULES = ["virtio_pci", "virtio_blk"]
PROGRAMS = ["/sbin/mkfs.ext4", "/sbin/e2fsck"]

INIT = """#!/bin/sh
busybox mkdir -p /proc /sys /dev /mnt /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
stty -echo
for module in $(cat /modules); do insmod $module || echo "@ no module $module"; done
say() { echo "@ $*"; }
ask() { echo "? $*"; read answer; }
check() { "$@" && say "ok $*" || say "FAILED $*"; }
. /script
say end
poweroff -f
"""


def _cpio_entry(name, mode, data=b"", rdev=(0, 0)):
    """One file of a "newc" archive (cpio(5))."""
    name_bytes = name.encode() + b"\0"
    _cpio_entry.inode += 1
    fields = [_cpio_entry.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(name_bytes), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name_bytes
    return header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4)


_cpio_entry.inode = 0


def kernel():
    """(image, folder of modules) of the newest cloud kernel; a visible skip without."""
    images = sorted(glob.glob("/boot/vmlinuz-*-cloud-*"))
    if not images:
        pytest.skip("no cloud kernel is installed (linux-image-cloud-amd64)")
    return images[-1], pathlib.Path("/lib/modules", images[-1].split("vmlinuz-", 1)[1])


def _module_files(folder):
    """Paths of MODULES and what they depend on, in the order of loading."""
    depends = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        depends[path] = rest.split()
    files = []
    for module in MODULES:
        path = next((p for p in depends if p.endswith(f"/{module}.ko")), None)
        if path is not None:  # else it is built in
            files += [p for p in reversed(depends[path]) if p not in files] + [path]
    return files


def _libraries(program):
    return re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", program], capture_output=True, text=True).stdout)


def _files(script, modules):
    """What a guest consists of, but for its kernel: {path: content}."""
    process.need("busybox", "mkfs.ext4", "e2fsck")
    sources = {"bin/busybox": "/bin/busybox", **{f"modules.d/{os.path.basename(m)}": m for m in modules}}
    for program in PROGRAMS:
        sources[f"bin/{os.path.basename(program)}"] = program
        sources.update({library.lstrip("/"): library for library in _libraries(program)})
    return {**{name: pathlib.Path(source).read_bytes() for name, source in sources.items()}, "init": INIT.encode(),
            "script": script.encode(),
            "modules": "\n".join(f"/modules.d/{os.path.basename(m)}" for m in modules).encode()}


def initramfs(path, script):
    """Write an initramfs that runs script; busybox applets and say, ask, check are at hand (see INIT)."""
    folder = kernel()[1]
    files = _files(script, [folder / m for m in _module_files(folder)])
    folders = {"dev"} | {str(parent) for name in files for parent in pathlib.PurePath(name).parents if str(parent) != "."}
    parts = [_cpio_entry(name, 0o040755) for name in sorted(folders)]
    parts += [_cpio_entry(name, 0o100755, content) for name, content in files.items()]
    parts += [
        _cpio_entry("dev/console", 0o020600, rdev=(5, 1)),
        _cpio_entry("bin/sh", 0o120777, b"busybox"),
        _cpio_entry("TRAILER!!!", 0),
    ]
    path.write_bytes(b"".join(parts))
    return path


# ---- Disks to boot from ----

CMDLINE = "console=ttyS0 quiet panic=-1 oops=panic tsc=unstable"
BOOT_CODE = pathlib.Path("/usr/lib/SYSLINUX/mbr.bin")
BOOT_BYTES = 32 << 20  # of the partition that the boot loader reads
BOOT_OFFSET = 1 << 20
ROOT_OFFSET = BOOT_OFFSET + BOOT_BYTES

FIND_ROOT = """
check mount -t ext4 /dev/vda2 /mnt
umount /dev /sys /proc
exec switch_root /mnt /init
"""

SYSLINUX_CFG = f"""
DEFAULT linux
LABEL linux
KERNEL vmlinuz
APPEND initrd=initramfs {CMDLINE}
"""


def _root_folder(folder, script):
    """What the root file system holds; the modules are loaded by the initramfs."""
    for name, content in _files(script, []).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    (folder / "bin/sh").symlink_to("busybox")
    (folder / "dev").mkdir()
    return folder


def boot_disk(disk, folder, script, run):
    """
    Make a disk that a BIOS boots from: syslinux, kernel and initramfs in a FAT partition, and the root file system, which
    runs script, in an ext4 partition from ROOT_OFFSET on. run() executes the programs that do it; they work on the disk
    as a file, without a loop device.
    """
    process.need("qemu-system-x86_64", "syslinux", "mcopy", "mformat", "sfdisk", "mkfs.ext4")
    if not BOOT_CODE.exists():
        pytest.skip(f"{BOOT_CODE} is not installed (syslinux)")
    (folder / "syslinux.cfg").write_text(SYSLINUX_CFG)
    fat = f"{disk}@@{BOOT_OFFSET}"
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk, stdin=f"""label: dos
        start={BOOT_OFFSET // 512}, size={BOOT_BYTES // 512}, type=e, bootable
        start={ROOT_OFFSET // 512}, type=83
        """)
    run("dd", f"if={BOOT_CODE}", f"of={disk}", "conv=notrunc")
    run("mformat", "-i", fat, "-T", BOOT_BYTES // 512, "-H", BOOT_OFFSET // 512, "-h", 16, "-s", 63, "::")
    for source, name in ((kernel()[0], "vmlinuz"), (initramfs(folder / "initramfs", FIND_ROOT), "initramfs"),
                         (folder / "syslinux.cfg", "syslinux.cfg")):
        run("mcopy", "-i", fat, source, f"::{name}")
    run("syslinux", "--install", "--offset", BOOT_OFFSET, disk)
    run("mkfs.ext4", "-q", "-F", "-d", _root_folder(folder / "root", script), "-E", f"offset={ROOT_OFFSET}", disk,
        f"{(os.path.getsize(disk) - ROOT_OFFSET) // 1024}k")


# What a guest that boots from a disk does: a file of random data, which it reads back from the disk and tells the sum of.
WRITE_A_FILE = """
say root $(grep ' / ' /proc/mounts | cut -d' ' -f1)
check dd if=/dev/urandom of=/data bs=64k count=64
sync
echo 3 >/proc/sys/vm/drop_caches
say sum $(sha256sum </data)
check mount -o remount,ro /
"""


def check_file(disk, folder, said):
    """WRITE_A_FILE was done on this disk: its root file system is in order and has the file."""
    process.need("debugfs", "e2fsck")
    assert "root /dev/vda2" in said
    process.run("e2fsck", "-f", "-n", f"{disk}?offset={ROOT_OFFSET}")
    process.run("debugfs", "-R", f"dump /data {folder}/data", f"{disk}?offset={ROOT_OFFSET}")
    assert f"sum {hashlib.sha256((folder / 'data').read_bytes()).hexdigest()}" in [line.rstrip(" -") for line in said]


class Guest:
    """
    A running machine. next() gives what its script says; answer() lets a script that asks go on. Without a script it
    boots from its disk.
    """

    def __init__(self, folder, script, devices=(), cpus=1, memory_mib=192, timeout=150):
        process.need("qemu-system-x86_64")
        boot = ["-boot", "order=c,strict=on"] if script is None else [
            "-kernel", kernel()[0], "-initrd", str(initramfs(folder / "initramfs", script)), "-append", CMDLINE]
        memory = f"memory-backend-memfd,id=mem,size={memory_mib}M,share=on"
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35,memory-backend=mem", "-cpu", "max",
                "-smp", str(cpus), "-m", f"{memory_mib}M", "-object", memory, "-nodefaults", "-no-user-config",
                "-display", "none", "-serial", "stdio", "-no-reboot", *boot, *devices]
        self.deadline = time.monotonic() + timeout
        self.popen = process.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.console = b""
        self.taken = 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.popen.stdout, selectors.EVENT_READ)

    def _line(self):
        """The next line of the console, or None at its end."""
        while b"\n" not in self.console[self.taken:]:
            if not self.selector.select(max(0, self.deadline - time.monotonic())):
                self.kill()
                pytest.fail(f"the guest was too slow:\n{self.text()}")
            data = os.read(self.popen.stdout.fileno(), 65536)
            if not data:
                return None
            self.console += data
        end = self.console.index(b"\n", self.taken)
        line = self.console[self.taken:end].decode(errors="replace").strip()
        self.taken = end + 1
        return line

    def text(self):
        return self.console.decode(errors="replace")

    def next(self):
        """What the script says or asks next: ("@" or "?", text). None when it has ended."""
        while True:
            line = self._line()
            if line is None:
                return None
            if line.startswith(("@ ", "? ")):
                if line.startswith(("@ FAILED", "@ no module")):
                    self.kill()
                    pytest.fail(f"in the guest: {line}\n{self.text()}")
                return line[0], line[2:]

    def until(self, mark, text):
        """Let the guest run until it says or asks this; what it said on the way."""
        said = []
        while True:
            got = self.next()
            assert got is not None, f"the guest ended before '{text}':\n{self.text()}"
            if got == (mark, text):
                return said
            said.append(got[1])

    def answer(self, text="go"):
        self.popen.stdin.write(text.encode() + b"\n")
        self.popen.stdin.flush()

    def finish(self):
        """Let it run to its end, which must be in order; what it said."""
        said = self.until("@", "end")
        assert self.popen.wait(max(1, self.deadline - time.monotonic())) == 0, self.text()
        return said

    def kill(self):
        self.popen.kill()
        self.popen.wait()


UEFI_CODE, UEFI_VARS = pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


def need_uefi():
    process.need("qemu-system-x86_64", "mformat", "mcopy", "mtype")
    if not (UEFI_CODE.exists() and UEFI_VARS.exists()):
        pytest.skip(f"{UEFI_CODE} is not installed (ovmf)")


def uefi(folder, devices, timeout=150):
    """
    Run a machine that has UEFI firmware and no system until it switches itself off; what its console shows. The firmware's
    shell carries out the startup.nsh of a disk.
    """
    variables = folder / "uefi-variables"
    variables.write_bytes(UEFI_VARS.read_bytes())
    flash = [["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={UEFI_CODE}"],
             ["-drive", f"if=pflash,format=raw,unit=1,file={variables}"]]
    return process.run("qemu-system-x86_64", "-accel", "tcg", "-machine", "q35,memory-backend=mem", "-m", "256M", "-object",
                       "memory-backend-memfd,id=mem,size=256M,share=on", "-nodefaults", "-no-user-config", "-display", "none",
                       "-serial", "stdio", "-no-reboot", "-net", "none", *flash[0], *flash[1], *devices,
                       timeout=timeout).stdout_text


def vhost_disk(path, **properties):
    """Devices for a disk at this socket; '_' in names of properties is written '-'."""
    words = "".join(f",{name.replace('_', '-')}={value}" for name, value in properties.items() if name != "reconnect")
    reconnect = f",reconnect={properties['reconnect']}" if "reconnect" in properties else ""
    return ["-chardev", f"socket,id=vhost,path={path}{reconnect}", "-device", f"vhost-user-blk-pci,chardev=vhost{words}"]
