"""Programs of experiments with smaller models: what takes long is to compile these."""

from typing import Any

import pytest

from experiments.hubert import steps
from ssl_jax.stages import programs

BLOCK = {"depth": 1, "width": 16, "heads": 2, "mlp_width": 16}


def smaller(monkeypatch: pytest.MonkeyPatch, **sizes: dict[str, Any]) -> None:
    """Changes values in dicts of the programs that are read from now on, by the dict's name."""
    read = programs.read

    def changed(*given: Any) -> tuple:
        program, *rest = read(*given)
        for name, values in sizes.items():
            vars(program)[name] = {**vars(program)[name], **values}
        return program, *rest

    monkeypatch.setattr(programs, "read", changed)


def one_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pads all recordings of HuBERT's programs to the longest, so that each step and each model is
    compiled for one shape."""
    whole = steps.whole

    def padded(*given: Any) -> Any:
        data = whole(*given)
        data.buckets = data.buckets[-1:]
        return data

    monkeypatch.setattr(steps, "whole", padded)
