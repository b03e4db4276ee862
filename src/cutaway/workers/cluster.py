"""`with on_ray(): ...`: sweeps inside are run by workers of a Ray cluster.

The cluster is one that runs already, or a local one that is begun for the purpose: bound to this machine, without a
dashboard, and silent. Ray is imported here and nowhere else before it is asked for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ..engine.engines import run_by
from ..errors import BadInput


@contextmanager
def on_ray(address: str | None = None, workers: int | None = None) -> Iterator[None]:
    """Sweeps inside, of this thread, are spread over workers that hold the model: the same numbers and files.

    Args:
        address: of a running cluster (`"auto"`, `"10.0.0.1:6379"`); default: the one this process is connected to, else
            a local one, which ends with the block.
        workers: how many; default: what the cluster has room for.

    Raises:
        BadInput: Ray is not installed, there is no such cluster, or the number is not positive.
    """
    if workers is not None and workers < 1:
        raise BadInput(f"workers={workers}: at least one must do the work.")
    ours = _connect(address, workers)
    from .pool import Pool

    pool = Pool(workers)
    try:
        with run_by(pool):
            yield
    finally:
        pool.close()
        if ours:
            import ray

            ray.shutdown()


def _connect(address: str | None, workers: int | None) -> bool:
    """Connect to a cluster, or begin one; whether that has to be undone."""
    if find_spec("ray") is None:
        raise BadInput("Workers need Ray, which is not installed. Install it: pip install 'cutaway[ray]'.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed")  # `Pool` tells of them itself
    import ray

    if ray.is_initialized():
        if address is not None:
            raise BadInput("This process is connected to a Ray cluster already. Leave out the address to use that one.")
        return False
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        cpus = max(os.cpu_count() or 1, workers or 1)
        with _this_machine_only():
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
        return True
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise BadInput(
            f"There is no Ray cluster at {address} that could be used: {said}. If it asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here, as its machines have them."
        ) from None
    return True


@contextmanager
def _this_machine_only() -> Iterator[None]:
    """A cluster begun inside listens to 127.0.0.1, as Ray does on systems that have no clusters of several machines."""
    from ray._private import ray_constants

    name, before = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER
    said = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # its processes read the one, this one the other
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if said is not None:
            os.environ[name] = said
