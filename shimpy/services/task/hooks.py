"""The hooks of containerd's containers: of the shim's configuration, or of a runtime's own options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from shimpy.api import well_known
from shimpy.core.runtime.options import read_table
from shimpy.errors import FailedPreconditionError, ShimError
from shimpy.services.task.encoding import read_option_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimpy.core.hooks.hook_set import HookSet

# Read for containers whose options name no hooks.
CONFIG: Final = "/etc/shimpy/config.toml"


class TaskHooks:
    """Loads hooks when the first container needs them; each configuration once.

    Args:
        config: the path of the shim's configuration; it need not be there.
    """

    def __init__(self, config: str = CONFIG) -> None:
        self._config = config
        self._loaded: dict[str, HookSet] = {}

    async def find(self, options: well_known.Any) -> HookSet | None:
        """Returns the hooks of a container that is to be created; None if there are none.

        Args:
            options: of its runtime, as containerd sends them: where they name hooks, these and no others.

        Raises:
            ShimError: they cannot be loaded; then there is to be no container, because a hook may be what
                permits it.
        """
        table = read_option_table(options)
        if table is None or "hooks" not in table:
            if not os.path.exists(self._config):
                return None
            try:
                return await self._load(read_table(path=self._config, field="hooks"), self._config)
            except ShimError as error:
                raise FailedPreconditionError(str(error)) from error
        return await self._load(table, "options")

    async def _load(self, table: Mapping[str, Any], where: str) -> HookSet | None:
        from shimpy.core.hooks.hook_set import HookSet
        from shimpy.core.hooks.load import HookConfig

        config = HookConfig.from_table(table, where)
        if config is None or not config.uses:
            return None
        key = repr(config)
        if key not in self._loaded:
            hooks = await config.load_aside()
            # Two containers may have come at once.
            if key not in self._loaded:
                self._loaded[key] = HookSet(hooks)
        return self._loaded[key]
