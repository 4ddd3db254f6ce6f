"""Programs of experiments with smaller models: what takes long is to compile these."""

from typing import Any

import pytest

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
