"""What a shim does at its first calls, done once by the fork server: its children share it."""

from __future__ import annotations

import asyncio
import sys

import betterproto

from shimpy.daemon import import_stubs, logs
from shimpy.daemon.containerd.daemon import load, load_upgrade


def warm_up() -> None:
    """Imports what is otherwise imported when it is first needed, and fills the caches of what has been."""
    load()
    load_upgrade()
    logs.set_up("info", "text")
    with import_stubs.imports():
        import shimpy.api.linux_options
        import shimpy.api.metrics_v1
        import shimpy.api.metrics_v2
        import shimpy.api.runc_options
        import shimpy.api.runtime_options
        import shimpy.core.cgroup.stats.v1
        import shimpy.core.cgroup.stats.v2
        import shimpy.core.rootfs.unmount
        import shimpy.core.stdio.logs
        import shimpy.core.stdio.terminal  # noqa: F401 - the last of those that are imported for the children
    from shimpy.transport.protobuf import decode, encode

    for name, module in list(sys.modules.items()):
        # Metrics are only ever sent.
        if name.startswith("shimpy.api.") and "metrics" not in name:
            for each in list(vars(module).values()):
                if isinstance(each, type) and issubclass(each, betterproto.Message):
                    encode(decode(each, b""))
    asyncio.run(asyncio.sleep(0))
