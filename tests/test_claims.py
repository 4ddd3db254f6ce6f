"""Values decide a claim, and the claims of a results file are what its program makes."""

import numpy as np
import pytest
from scipy import stats

from experiments import claims, results

PATHS = [*sorted(results.HERE.glob("*/results*.json")), results.HERE / "quickstart.json"]
FILES = [path.relative_to(results.HERE).as_posix() for path in PATHS]
A, B = ("new", [0.5, 0.6, 0.7]), ("old", [0.4, 0.55, 0.71])


def test_a_claim_has_its_arms_its_bar_and_a_verdict():
    made = claims.claim("it helps", "accuracy", A, B, mean_gain=0.04, seeds=2)
    assert made == {
        "claim": "it helps",
        "metric": "accuracy",
        "better": "higher",
        "a": {"name": "new", "values": [0.5, 0.6, 0.7]},
        "b": {"name": "old", "values": [0.4, 0.55, 0.71]},
        "bar": {"mean_gain": 0.04, "seeds": 2},
        "held": True,
    }
    assert claims.gains(made) == pytest.approx([0.1, 0.05, -0.01]) and claims.ahead(made) == 2


@pytest.mark.parametrize(
    ("bar", "held"),
    [
        ({}, False),  # ahead in every seed, by default
        ({"seeds": 2}, True),
        ({"seeds": 2, "mean_gain": 0.14 / 3}, True),  # exactly the gain: rounding does not decide
        ({"seeds": 2, "mean_gain": 0.05}, False),
        ({"seeds": 1, "better": "lower"}, False),
        ({"seeds": 1, "better": "lower", "mean_gain": -0.05}, True),
    ],
)
def test_the_bar_decides(bar, held):
    assert claims.claim("c", "m", A, B, **bar)["held"] is held


def test_equal_values_are_not_ahead_and_two_seeds_are_too_few():
    assert not claims.claim("c", "m", A, A)["held"]
    assert claims.claim("not worse", "m", A, A, seeds=0)["held"]
    assert not claims.claim("c", "m", ("a", [1.0, 1.0]), ("b", [0.0, 0.0]))["held"]


def test_arms_that_are_not_paired_are_refused():
    with pytest.raises(ValueError, match=r"it helps: new has 3 values and old has 1; pair them"):
        claims.claim("it helps", "m", A, ("old", [0.5]))
    with pytest.raises(ValueError, match="'hihger'; use 'higher' or 'lower'"):
        claims.claim("it helps", "m", A, B, better="hihger")


@pytest.mark.parametrize("name", FILES)
def test_the_claims_of_a_results_file_are_made_from_its_values(name):
    assert name in claims.files(), "its folder needs a claims.py with CLAIMS"
    found = results.read(name)
    written = found.pop("claims")
    assert written == claims.files()[name](found), "stale: python -m experiments.claims --write"
    for one in written:
        assert len(one["a"]["values"]) >= claims.SEEDS, one["claim"]


def test_every_claim_is_printed_with_its_gain_and_its_verdict(capsys):
    claims.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + sum(map(len, claims.published().values()))
    (line,) = [x for x in lines if x.startswith("quickstart")]
    found = results.read("quickstart.json")
    gains = np.subtract(found["pretrained"], found["scratch"])
    gain = f"{gains.mean():.3f} ± {stats.sem(gains) * stats.t.ppf(0.975, len(gains) - 1):.3f}"
    assert f" {gain} " in line
    assert f"{(gains > 0).sum()} of {len(gains)} seeds" in line and line.endswith("held")
