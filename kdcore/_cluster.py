"""Ray, as far as it is needed here: a connection, workers that are alike, work spread over them.

Scheduling, transport and what becomes of a dead machine are Ray's. What is ours are messages of
one line, and that nobody computes with other versions than the rest.
"""

import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kdcore._files import digest
from kdcore._provenance import provenance

Item = TypeVar("Item")
Answer = TypeVar("Answer")

LIVES = 3
"""So many workers may die of one item, or before they say a word, until that is an error."""
_SECONDS = 2.0  # after which new machines are looked for
_KEPT = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL")
_SHARED_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


@contextmanager
def connected(address: str, num_cpus: int | None = None) -> Iterator[Any]:
    """Ray, connected as long as the block lasts; a connection of the caller's own is taken.

    Args:
        address: "local" starts workers on this machine, "auto" is the cluster that it belongs to,
            "host:6379" another one.
        num_cpus: Of a local start; None counts them.

    Raises:
        ConnectionError: If Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ConnectionError(
            "Ray is not installed, which spreads work over processes and machines. "
            "Install it: pip install 'kdcore[ray]'."
        ) from error
    if ray.is_initialized():
        yield ray
        return
    _knock(address)
    local: dict[str, Any] = {"num_cpus": num_cpus} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself tries a wrong address for minutes, and ends the process then."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConnectionError:
    said = " ".join(str(error).split())
    return ConnectionError(
        f"No Ray cluster can be used at {address!r}: {said.rstrip('.')}. Start one with `ray start "
        '--head --port=6379` and give its "host:6379", or "local" for workers on this machine.'
    )


def environment(num_cpus: float) -> dict[str, Any]:
    """Ray's `runtime_env` of a worker: what changes numbers as it is here, a thread a CPU.

    And a GPU's memory as it is needed, for workers that share one.
    """
    threads = dict.fromkeys(_THREADS, str(max(1, int(num_cpus))))
    told = {name: os.environ[name] for name in (*_KEPT, *_THREADS) if name in os.environ}
    return {"env_vars": {**threads, **_SHARED_GPU, **told}}


def alike() -> dict[str, str]:
    """What must be the same wherever parts of one result are computed."""
    here = provenance()
    files = sorted(Path(__file__).parent.rglob("*.py"))
    source = digest([path.read_text("utf-8") for path in files])[:12]
    return {**here["versions"], "backend": here["backend"], "kdcore's source": source}


def compare(here: Mapping[str, str], there: Mapping[str, str], host: str) -> None:
    """Raise `ConnectionError` unless a worker has what is here."""
    changed = [
        f"{name} {there.get(name, 'missing')} (here {here.get(name, 'missing')})"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    ]
    if changed:
        raise ConnectionError(
            f"The worker on {host} has {', '.join(changed)}. Results would not be of one kind: "
            "install the same there, and start its `ray start` again."
        )


class _Worker:
    """A process somewhere. What serves for all items is sent once."""

    def __init__(self, function: Callable[..., Any], shared: tuple[Any, ...]) -> None:
        self.function, self.shared = function, shared

    def introduce(self) -> tuple[dict[str, str], str]:
        return alike(), socket.gethostname()

    def do(self, item: Any) -> Any:
        return self.function(item, *self.shared)


def spread(
    ray: Any,
    function: Callable[..., Answer],
    items: Iterable[Item],
    *shared: Any,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> Generator[tuple[Item, Answer], None, None]:
    """`function(item, *shared)` of each item, by as many workers as the cluster has room for.

    Each worker has one item at a time, and `items` is read as workers ask. What a worker that
    died had in hand is given to another. Machines that come are used.

    Args:
        ray: From `connected`.
        function: Of a module that workers can import.
        items: Read once.
        *shared: For every call; sent once a worker.
        num_cpus: Of a worker.
        num_gpus: Of a worker.

    Yields:
        An item and its answer, in the order in which they come.

    Raises:
        ConnectionError: If there is no room, a worker has other versions, or work is lost with
            its worker again and again.
    """
    kind = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, runtime_env=environment(num_cpus))
    given, here, left = ray.put(shared), alike(), _Left(items)
    at_work: dict[Any, tuple[Any, Item | None]] = {}
    stillborn = 0
    try:
        while left or any(item is not None for _, item in at_work.values()):
            room = _room(ray, num_cpus, num_gpus)
            if not room:
                raise ConnectionError(
                    f"No machine of the cluster has {num_cpus:g} CPUs and {num_gpus:g} GPUs for a "
                    "worker. Ask for less, or call again when one has: it goes on."
                )
            for _ in range(room - len(at_work) if left else 0):
                worker = kind(_Worker).remote(function, given)
                at_work[worker.introduce.remote()] = worker, None
            for done in ray.wait(list(at_work), timeout=_SECONDS)[0]:
                worker, item = at_work.pop(done)
                try:
                    answer = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:  # the worker, or its machine, is gone
                    ray.kill(worker)
                    stillborn += item is None
                    if (item is not None and left.give_back(item) >= LIVES) or stillborn >= LIVES:
                        raise _lost(item, error) from error
                    continue
                if item is None:
                    compare(here, *answer)
                if (following := left.take()) is not None:
                    at_work[worker.do.remote(following)] = worker, following
                else:
                    ray.kill(worker)
                if item is not None:
                    yield item, answer
    finally:
        for worker, _ in at_work.values():
            ray.kill(worker)


class _Left:
    """Items that nobody has in hand; the next one is looked at, so that the end is known."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items, self.waiting, self.deaths = iter(items), deque[Any](), dict[int, int]()

    def __bool__(self) -> bool:
        if not self.waiting:
            self.waiting.extend(item for item in [next(self.items, None)] if item is not None)
        return bool(self.waiting)

    def take(self) -> Any:
        return self.waiting.popleft() if self else None

    def give_back(self, item: Any) -> int:
        """How many workers died of it so far."""
        self.waiting.appendleft(item)
        self.deaths[id(item)] = self.deaths.get(id(item), 0) + 1
        return self.deaths[id(item)]


def _room(ray: Any, num_cpus: float, num_gpus: float) -> int:
    """Workers that fit, machine by machine."""
    wanted = {name: n for name, n in (("CPU", num_cpus), ("GPU", num_gpus)) if n > 0}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(has.get(k, 0) / n) for k, n in wanted.items()) for has in machines)


def _lost(item: Any, error: Exception) -> ConnectionError:
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = getattr(item, "case_id", item)
    what = "before it could say its versions" if item is None else f"at {name}"
    return ConnectionError(
        f"{LIVES} workers died {what}: {said[-1]} Is kdcore installed there, and enough memory? "
        "What is finished is kept; a further call goes on."
    )
