"""Follow a registry: when a promotion or a rollback moves an alias, let its kernels predict."""

import logging
import shutil
import threading
from pathlib import Path

from iak.pipeline.errors import PipelineError
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.resolve import resolve
from iak.pipeline.serving.scorer import Scorer
from iak.pipeline.serving.service import Service
from iak.pipeline.storage.store import Store
from iak.schemas.registry import Alias

_log = logging.getLogger(__name__)


class Follower:
    """Looks at a registry every few seconds, and swaps the kernels of a service."""

    def __init__(
        self, service: Service, store: Store, alias: Alias, scratch: Path, *, generation: int
    ) -> None:
        """Begin with the kernels that the service has.

        Args:
            service: gets the new kernels.
            store: store of the registry.
            alias: alias that is followed.
            scratch: folder for the bundles of a commit, until they are read.
            generation: the commit that the service's kernels are of.
        """
        self.service, self.store, self.alias, self.scratch = service, store, alias, scratch
        self.generation = generation
        """The commit whose kernels predict."""
        self.problem = ""
        """Why the newest commit could not be followed; the kernels before it stay."""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> bool:
        """Look at the registry once; return whether other kernels predict now."""
        try:
            head = read_head(self.store)
            if head is None or head.generation == self.generation:
                return False
            scorer, generation = self._newest(self.service.scorer)
        except (PipelineError, OSError) as error:
            if str(error) != self.problem:
                _log.warning("the kernels stay as they are: %s", error)
            self.problem = str(error)
            return False
        self.service.swap(scorer)
        self.generation, self.problem = generation, ""
        return True

    def _newest(self, scorer: Scorer) -> tuple[Scorer, int]:
        """Return the scorer with the kernels that the alias means now, and their commit."""
        folder = self.scratch / "newest"
        manifest = scorer.base.published.manifest
        done = resolve(self.store, self.alias, folder, base_fingerprint=manifest.fingerprint)
        newest = scorer.with_kernels(folder)
        shutil.rmtree(folder)
        return newest, done.generation

    def start(self, every_s: float) -> None:
        """Look at the registry again and again, in a thread of its own."""

        def run() -> None:
            while not self._stopped.wait(every_s):
                self.look()

        self._thread = threading.Thread(target=run, name="follow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
