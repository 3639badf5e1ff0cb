"""Follow a registry: when a promotion or a rollback moves an alias, let its kernels predict."""

import logging
import shutil
from pathlib import Path

from iak.pipeline.errors import PipelineError
from iak.pipeline.registry.commits import newest_generation
from iak.pipeline.registry.resolve import ResolvedAlias, resolve_moved
from iak.pipeline.repeated import Repeated
from iak.pipeline.serving.service import Service
from iak.pipeline.storage.store import Store
from iak.schemas.registry import Alias

_log = logging.getLogger(__name__)


class Follower:
    """Looks at a registry every few seconds, and swaps the kernels of a service."""

    def __init__(
        self,
        service: Service,
        store: Store,
        alias: Alias,
        scratch: Path,
        *,
        resolved: ResolvedAlias,
    ) -> None:
        """Begin with the kernels that the service has.

        Args:
            service: gets the new kernels.
            store: store of the registry.
            alias: alias that is followed.
            scratch: folder for the bundles that moved, until they are read.
            resolved: what the alias meant when the service's kernels were read.
        """
        self.service, self.store, self.alias, self.scratch = service, store, alias, scratch
        self.resolved = resolved
        """The commit whose kernels predict, and their stored bundles."""
        self.problem = ""
        """Why the newest commit could not be followed; the kernels before it stay."""
        self._looks = Repeated("follow", self.look)

    @property
    def generation(self) -> int:
        """Return the number of the commit whose kernels predict."""
        return self.resolved.generation

    def look(self) -> bool:
        """Look at the registry once; return whether other kernels predict now."""
        try:
            # A commit has a pointer for every domain. It is read only where there is a new one.
            if newest_generation(self.store) == self.generation:
                return False
            is_other = self._follow()
        except (PipelineError, OSError) as error:
            if str(error) != self.problem:
                _log.warning("the kernels stay as they are: %s", error)
            self.problem = str(error)
            return False
        self.problem = ""
        return is_other

    def _follow(self) -> bool:
        """Read the bundles that moved, and let them predict; return whether there are any."""
        scorer, folder = self.service.scorer, self.scratch / "moved"
        base = scorer.base.published.manifest.fingerprint
        resolved = resolve_moved(
            self.store, self.alias, folder, base_fingerprint=base, since=self.resolved
        )
        is_other = resolved.stored != self.resolved.stored
        if is_other:
            self.service.swap(scorer.with_moved(folder, list(resolved.stored)))
        shutil.rmtree(folder)
        self.resolved = resolved
        return is_other

    def start(self, every_s: float) -> None:
        """Look at the registry again and again, in a thread of its own."""
        self._looks.start(every_s)

    def stop(self) -> None:
        """End the thread."""
        self._looks.stop()
