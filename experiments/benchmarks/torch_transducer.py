"""The transducer loss of torchaudio, which ours is timed against; see transducer.py.

It runs in an environment of its own, without this package, so that torchaudio need not fit the
torch of the tests: python torch_transducer.py '{"rows": 8, ...}' prints one line of JSON.
"""

import importlib
import json
import resource
import sys
import time

import torch

# of another environment than that of the tests, whose setup.py does not name it
torchaudio = importlib.import_module("torchaudio")
rnnt_loss = importlib.import_module("torchaudio.functional").rnnt_loss


def measure(about: dict) -> dict:
    """Returns the seconds of each round of joint network, loss and gradients, and peak MiB."""
    torch.set_num_threads(about["threads"])
    torch.manual_seed(0)
    b, t, u, v, e = (about[k] for k in ("rows", "frames", "tokens", "vocabulary", "width"))
    frames = torch.randn(b, t, e, requires_grad=True)
    said = torch.randn(b, u + 1, e, requires_grad=True)
    answer = torch.nn.Linear(e, v)
    labels = torch.randint(1, v, (b, u), dtype=torch.int32)
    lengths = torch.full((b,), t, dtype=torch.int32), torch.full((b,), u, dtype=torch.int32)

    def step() -> None:
        logits = answer(torch.tanh(frames[:, :, None] + said[:, None]))
        rnnt_loss(logits, labels, *lengths, blank=0, reduction="mean").backward()
        for x in (frames, said, *answer.parameters()):
            x.grad = None

    before, seconds = _peak(), []
    for _ in range(about["rounds"] + 1):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    versions = {"torch": torch.__version__, "torchaudio": torchaudio.__version__}
    return {"seconds": seconds[1:], "mebibytes": _peak() - before, **versions}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
