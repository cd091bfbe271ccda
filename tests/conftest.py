"""Threads of the suite's processes, and the reports at its end: losses and laws, and the table of tests/zoo."""

import os
from collections import Counter, defaultdict

import pytest
import torch

from monai_surrogates.core.kernels import operators
from tests.zoo.table import rows_of

# Two processes of tests run at once, and many tensors are small: threads would spend their time waiting for each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

VERDICTS = {"failed": "FAILED", "error": "FAILED", "passed": "passed", "skipped": "does not apply"}


@pytest.fixture
def small_images_are_tiled(monkeypatch):
    """The kernels for large images on the small ones of a test."""
    monkeypatch.setattr(operators, "KERNELS", dict.fromkeys(operators.KERNELS, 0))


def pytest_collection_modifyitems(items):
    # the longest first, so that no process ends late
    items.sort(key=lambda item: item.path.name not in ("test_tutorials.py", "test_every_kind.py"))
    for item in items:
        if item.path.name == "test_contract.py" and hasattr(item, "callspec"):
            law = item.originalname.removeprefix("test_").replace("_", " ")
            item.user_properties += [("loss", item.callspec.params["name"]), ("law", law)]


def pytest_terminal_summary(terminalreporter):
    write_laws(terminalreporter)
    write_bundles(terminalreporter)


def write_laws(terminalreporter):
    laws = defaultdict(Counter)
    for outcome, verdict in VERDICTS.items():
        for report in terminalreporter.getreports(outcome):
            properties = dict(getattr(report, "user_properties", ()))
            if "law" in properties:
                reason = report.longrepr[2].replace("Skipped", "") if outcome == "skipped" else ""
                laws[properties["loss"], properties["law"]][verdict + reason] += 1
    if not laws:
        return
    terminalreporter.write_sep("=", "losses and laws")
    loss_width, law_width = (max(map(len, column)) for column in zip(*laws, strict=True))
    for (loss, law), cases in sorted(laws.items()):
        verdicts = ", ".join(in_words(verdict, number, cases.total()) for verdict, number in cases.items())
        terminalreporter.write_line(f"{loss:{loss_width}}  {law:{law_width}}  {verdicts}", red="FAILED" in verdicts)


def write_bundles(terminalreporter):
    cells = {
        tuple(dict(report.user_properties)["zoo"]): outcome
        for outcome in VERDICTS
        for report in terminalreporter.getreports(outcome)
        if "zoo" in dict(getattr(report, "user_properties", ()))
    }
    if cells:
        terminalreporter.write_sep("=", "bundles, objectives, handlers")
        for row in rows_of(cells):
            terminalreporter.write_line(row, red="FAILED" in row)


def in_words(verdict, number, total):
    """Of the cases of a law: ``passed``, ``passed 3``, ``FAILED 1 of 3``, ``does not apply: (the reason)``."""
    if total == 1 or "does not apply" in verdict:
        return verdict
    return f"{verdict} {number}" if number == total else f"{verdict} {number} of {total}"
