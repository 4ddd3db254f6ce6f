"""The benchmark of the transducer: what it measures at toy size."""

import pytest

from experiments.benchmarks import transducer


@pytest.mark.slow
def test_loss_and_decoding_are_measured(monkeypatch):
    about = {"rows": 2, "frames": 6, "tokens": 2, "vocabulary": 5, "width": 4, "block": 3}
    found = transducer.measure({**about, "rounds": 2})
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0
    made = [{"seconds": [2.0, 4.0], "mebibytes": 6.0}]
    monkeypatch.setattr(transducer, "_run", lambda command: made[0] | {"ran": command[0]})
    row = transducer.compare({**about, "rounds": 2}, "python-of-torch")
    assert row["speed_up"] == row["memory_share"] == 1.0
    assert row["arms"]["torchaudio"]["ran"] == "python-of-torch"
    assert row["median_seconds"] == {"ours": 3.0, "torchaudio": 3.0}
    speeds = transducer.decoding(2, (2,), seconds=0.4)
    assert len(speeds) == 4 and min(speeds.values()) > 0
    assert "CTC, beam of 2" in speeds and "transducer, best path, batch of 2" in speeds
