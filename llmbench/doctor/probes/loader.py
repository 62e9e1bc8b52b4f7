"""A DataLoader with worker processes, whose batches come through shared memory."""

from __future__ import annotations

import time
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    rows, columns = arguments["rows"], arguments["columns"]
    # A class of torch's own: it can be unpickled in a worker whatever way workers are started.
    data = TensorDataset(torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns))
    loader = DataLoader(data, batch_size=1, num_workers=2, timeout=arguments["timeout"])
    started = time.perf_counter()
    total = sum(float(batch.double().sum()) for (batch,) in loader)
    yield {
        "seconds": time.perf_counter() - started,
        "right": total == float(data.tensors[0].double().sum()),
        "batch_bytes": columns * 4,
        "batches": rows,
        "sharing": torch.multiprocessing.get_sharing_strategy(),
    }
