"""An image of a root filesystem, as `ctr images import` takes it: an OCI image layout in a tar archive."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

_TYPE = "application/vnd.oci.image"

# What Go calls the machines that it calls otherwise than uname(2).
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(path: Path, rootfs: Path, *, name: str, command: list[str]) -> None:
    """Writes an image of one layer.

    Args:
        path: of the archive.
        rootfs: the root filesystem.
        name: the image's name, with a registry and a tag.
        command: what a container of it runs.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(rootfs, ".", filter=_of_root)
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"{_TYPE}.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    layers = [blob(layer.getvalue(), "layer.v1.tar")]
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    described = blob(json.dumps(config).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "config": described, "layers": layers}
    listed = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    listed["annotations"] = {"io.containerd.image.name": name}
    files = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode(),
        **blobs,
    }
    with tarfile.open(path, "w") as archive:
        for place, data in files.items():
            member = tarfile.TarInfo(place)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
