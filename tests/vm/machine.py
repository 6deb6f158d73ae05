"""A QEMU machine that runs a script in a copy of the source, and stops."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.vm.image import SOURCE, image

_LEFT_OUT = {".git", ".vm", "dist", "build", "__pycache__"}
_KERNEL = (
    "root=/dev/vda rw console=ttyS0 panic=-1 systemd.unit=tests.service quiet "
    # Of the kernel only its last words, of systemd only what fails; the rest of the console is the tests'.
    "loglevel=1 systemd.show_status=error "
    # Nobody attacks it, and the mitigations cost an emulated processor most.
    "mitigations=off"
)


def run(script: str) -> int:
    """Boots the machine, shows its console, and returns the exit status of a script of sh(1).

    Args:
        script: what to run there, in a directory with a copy of the source.
    """
    made = image()
    with tempfile.TemporaryDirectory(prefix="shimpy-vm-") as directory:
        source, status = Path(directory, "source"), Path(directory, "status")
        _pack(source, script)
        machine = subprocess.run(
            [
                *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-accel", "tcg,thread=multi", "-smp", "2", "-m", "2560"),
                *("-kernel", str(made / "kernel"), "-initrd", str(made / "initrd"), "-append", _KERNEL),
                # What is written to the disk goes to a file that is gone with the machine.
                *("-drive", f"file={made / 'disk'},format=raw,if=virtio,snapshot=on"),
                *("-drive", f"file={source},format=raw,if=virtio,readonly=on"),
                *("-device", "virtio-rng-pci"),
                *("-serial", "stdio", "-serial", f"file:{status}"),
            ],
            check=False,
            stdin=subprocess.DEVNULL,
        )
        said = status.read_text().strip() if status.exists() else ""
    if machine.returncode != 0 or not said:
        print("the machine stopped before the tests had ended", flush=True)
        return machine.returncode or 1
    return int(said)


def _pack(path: Path, script: str) -> None:
    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = Path(member.name).name
        return None if name in _LEFT_OUT or name.startswith(".venv") else member

    with tarfile.open(path, "w") as archive:
        archive.add(SOURCE, ".", filter=kept)
        member = tarfile.TarInfo("run-in-vm")
        member.size = len(script.encode())
        archive.addfile(member, io.BytesIO(script.encode()))
