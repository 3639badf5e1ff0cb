"""Describe a cluster for `iak plan`: memory, speeds and cost of its machines.

Each number comes from a data sheet or a price list until `iak bench sharding` has measured it.
Estimates say which of the two they are based on.
"""

from typing import Annotated, Literal

from pydantic import Field

from iak.schemas.base import Spec
from iak.schemas.numbers import Gib, Money, Number, Seconds, Speed, Workers

Share = Annotated[Number, Field(gt=0, le=1)]


class ConstantsSpec(Spec):
    """Assumed or measured constants of a training step, most as shares of a data sheet's number."""

    lookup_efficiency: Share = 0.3
    """Share of the memory bandwidth that random reads and updates of embedding rows reach."""
    matmul_efficiency: Share = 0.4
    """Share of the matrix rate that trunks and towers reach."""
    network_efficiency: Share = 0.6
    """Share of a link's bandwidth that collectives reach."""
    collective_us: Seconds = 50.0
    """Microseconds that a collective costs before its first byte, on one node."""
    step_ms: Seconds = 2.0
    """Milliseconds of a step outside of memory, matrix products and links: launches, Python."""
    rows_per_s_core: Speed = 100_000.0
    """Rows of a wide log that one CPU core reads, encodes and batches per second."""
    cached_rows_per_s: Speed | None = None
    """Rows per second that one worker tunes from cached activations, where it was measured."""
    reserve_share: Annotated[Number, Field(ge=0, lt=0.9)] = 0.12
    """Share of the device's memory that a plan leaves to the runtime, fragments and workspaces."""
    measured: str = ""
    """The record that measured them; empty where they are assumptions."""


class ClusterSpec(Spec):
    """Machines of one kind."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    """Name that `cluster=` takes."""
    device: Literal["cuda", "cpu"] = "cuda"
    """What a worker computes on; a CPU machine has one worker a core or a few."""
    accelerator: str = ""
    """Name of the device, shown to people."""
    nodes: Workers = 1
    """Number of machines."""
    devices_per_node: Workers
    """Workers on each machine: one for each GPU."""
    device_memory_gib: Gib
    """GiB of one device; on a CPU, of one worker."""
    host_memory_gib: Gib
    """GiB of a machine's own memory, without its devices'; activations are cached there."""
    cores_per_node: Workers
    """CPU cores that read and encode rows."""
    device_gb_per_s: Speed
    """Bandwidth of a device's memory, 1e9 bytes/s."""
    intra_gb_per_s: Speed
    """Bandwidth from one device to others of its machine, 1e9 bytes/s, one direction."""
    inter_gb_per_s: Speed
    """Bandwidth from one device to other machines, 1e9 bytes/s, one direction."""
    tflops_fp32: Speed
    """Matrix products of one device in fp32, 1e12 FLOP/s."""
    tflops_bf16: Speed
    """Matrix products of one device in bfloat16, 1e12 FLOP/s."""
    price_per_hour: Money = 0.0
    """Price of one machine for an hour; 0 where cost does not matter."""
    currency: str = "USD"
    constants: ConstantsSpec = ConstantsSpec()
    note: str = ""
    """Where the numbers come from."""

    @property
    def world(self) -> int:
        """Return the number of workers of all machines."""
        return self.nodes * self.devices_per_node
