from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from llmbench.cli.progress import Quiet
from llmbench.launch.session import DISTRIBUTED, Request, start
from llmbench.launch.target import Target
from llmbench.results.schema import Record
from llmbench.suite.cases import resolve
from llmbench.suite.load import SuiteFile
from llmbench.suite.workloads import WORKLOADS, Size, Workload, foreign

Train = Callable[[str], dict[str, Record]]


def own(name: str) -> Workload:
    """A workload of ``tests/launch`` as ``llmbench run`` finds it, without seconds to ask the interpreter for it."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    about = {
        "family": "own",
        "source": f"tests.launch.{name}",
        "title": "",
        "unit": "samples/s",
        "tokenizer": None,
        "objective": "own",
        "parameters": None,
    }
    return foreign(name, Size({}, {"micro_batch_size": 32, "learning_rate": 0.02}), about)


@pytest.fixture(scope="module")
def train(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Train]:
    """Runs a suite as ``llmbench run`` does, and returns its records.

    One server serves all suites of a test module, and imports once what the module names in ``PRELOAD``.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with Target(sys.executable, [*DISTRIBUTED, *getattr(request.module, "PRELOAD", ())]) as target:

            def run(suite: str) -> dict[str, Record]:
                folder = tmp_path_factory.mktemp("run")
                file = folder / "suite.toml"
                file.write_text(suite, encoding="utf-8")
                asked = Request(
                    suite="suite",
                    suite_file=str(file),
                    description="",
                    cases=resolve(SuiteFile(file, own), lookup=own),
                    ladder=[],
                    python=sys.executable,
                    device="cpu",
                    data=None,
                    out=folder / "out",
                    command=[],
                )
                with start(asked, target, Quiet()) as session:
                    return {record.case: record for record in session.execute()}

            yield run
