"""`python -m ssl_jax` lists the commands."""

import pytest
from test_floors import COMMANDS

from ssl_jax import __main__ as listing


def test_every_command_is_listed_in_one_line_of_eighty_columns(capsys):
    listing.main([])
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[2].removeprefix("ssl_jax.") for line in lines if line.startswith("  ")}
    assert named == {name for name in COMMANDS if not name.startswith("_")}
    assert all(len(line) <= 80 for line in lines)
    assert "  python -m ssl_jax.plan      Predicts the cost of a run" in lines


@pytest.mark.parametrize(("word", "name"), [("evaluate", "evaluate"), ("fit", "train")])
def test_a_command_after_a_space_is_told_the_dot(word, name, capsys):
    with pytest.raises(SystemExit, match=rf"'{word}': write `python -m ssl_jax\.{name}`"):
        listing.main([word, "--run", "x"])
    assert "Commands of ssl_jax" in capsys.readouterr().out
