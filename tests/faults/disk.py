"""A small disk of one's own for a stack: a file of its own blocks on a loop device, that can be slow, and full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device")
SLOW_WRITES_S = 25  # a durable write takes three: some 8 commits a second for all of the stack together
MIB = 1 << 20


def possible() -> str:
    """Why this machine does not permit it, or nothing."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return "needs root and loop devices"
    return "" if THROTTLE.exists() else "no cgroup v1 blkio throttle at the root"


class Disk:
    """The mounted disk."""

    def __init__(self, image: Path, mounted: Path) -> None:
        self.image, self.mounted = image, mounted
        self._balloon = mounted / "balloon"
        self._device = ""

    def build(self, size_mib: int) -> None:
        """Make and mount it."""
        self.image.parent.mkdir(exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(size_mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", str(self.image)], check=True)
        self.mounted.mkdir(parents=True, exist_ok=True, mode=0o700)
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.mounted)], check=True)
        loop = subprocess.run(["losetup", "-j", str(self.image), "-O", "NAME", "-n"], check=True, capture_output=True,
                              text=True).stdout.strip()  # fmt: skip
        self._device = Path(f"/sys/block/{Path(loop).name}/dev").read_text().strip()

    def destroy(self) -> None:
        """Unmount and forget it."""
        self.heal()
        subprocess.run(["umount", "-l", str(self.mounted)], check=False)
        self.image.unlink(missing_ok=True)

    def fill(self) -> None:
        """Leave no block free."""
        with self._balloon.open("wb") as file:
            for step in (64 * MIB, MIB, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, step)

    def slow(self) -> None:
        """Have it write so many blocks a second, no more."""
        THROTTLE.write_text(f"{self._device} {SLOW_WRITES_S}\n")

    def heal(self) -> None:
        """Free it, and let it be fast."""
        self._balloon.unlink(missing_ok=True)
        if self._device:
            THROTTLE.write_text(f"{self._device} 0\n")


@contextlib.contextmanager
def disk(folder: Path, size_mib: int, *, at: Path) -> Iterator[Disk]:
    """A disk mounted at a directory, for as long as it is needed."""
    one = Disk(folder / "disk.img", at)
    try:
        one.build(size_mib)
        yield one
    finally:
        one.destroy()
