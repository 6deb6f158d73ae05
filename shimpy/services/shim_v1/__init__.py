"""containerd.shim.v1.Shim: one container at a time, its processes named by pid."""

from shimpy.services.shim_v1.service import Shim

__all__ = ["Shim"]
