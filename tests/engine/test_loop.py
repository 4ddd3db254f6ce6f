"""The loop: guards, metrics, hooks, transfers, prefetch and stopping."""

import io
import json
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.core import chips, stop
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.engine import checkpoint, flops, hooks, log, loop, prefetch
from ssl_jax.engine import step as step_lib
from ssl_jax.engine.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def started(mesh):
    state, shardings, compiled, pure = toy.start(mesh)
    return jax.device_get(state), shardings, compiled, pure


class Run:
    """A toy run in a folder, stepped by `go`."""

    def __init__(self, folder, mesh, started, compiled=None):
        self.folder, self.mesh = folder, mesh
        self.host, self.shardings = started[:2]
        self.compiled = compiled or started[2]
        self.checkpoints = Checkpoints(folder, toy.make_config())

    def go(self, total=10, start=0, hooks=(), change=lambda n, batch: batch, last=None, **changes):
        state = jax.device_put(self.host, self.shardings)
        if start:
            state = self.checkpoints.restore(state, self.shardings)
        logger = toy.open_logger(self.folder, start)
        batches = toy.stream(start, total if last is None else last, change)
        options = toy.options(total, **changes)
        try:
            return loop.fit(
                state, self.compiled, batches, self.mesh, options, self.checkpoints, logger, hooks
            )
        finally:
            logger.close()

    def rows(self):
        return log.read(self.folder / "metrics.jsonl")


@pytest.fixture
def toy_run(tmp_path, mesh, started):
    run = Run(tmp_path, mesh, started)
    yield run
    run.checkpoints.close()


def test_the_loop_equals_a_plain_loop_over_the_pure_step(toy_run, started):
    host, _, _, pure = started
    expected, losses = host, []
    step = jax.jit(pure)
    for n in range(10):
        expected, metrics = step(expected, toy.rows(n))
        losses.append(jax.device_get(metrics["loss"]))
    done = toy_run.go()
    for a, b in zip(jax.tree.leaves(done.state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    rows = toy_run.rows()
    assert [r["step"] for r in rows] == [2, 4, 6, 8, 10]
    (s1, n1), (s2, n2) = losses[:2]
    assert rows[0]["train/loss"] == pytest.approx((s1 + s2) / (n1 + n2), rel=1e-6)
    assert rows[0]["train/examples_per_second"] > 0
    assert rows[0]["train/audio_hours_per_second"] > 0
    assert done.step == 10 and not done.stopped


def test_metrics_are_drained_after_the_next_step_is_given_to_the_device(toy_run, started):
    order = []
    real = toy_run.compiled

    def run(state, totals, batch):
        order.append("step")
        return real.run(state, totals, batch)

    toy_run.compiled = step_lib.TrainStep(run, real.zeros)
    logger_write = log.Logger.write
    try:
        log.Logger.write = lambda self, n, m: (order.append(f"row {n}"), logger_write(self, n, m))
        toy_run.go(6, save_every=100)
    finally:
        log.Logger.write = logger_write
    expected = ["step"] * 3 + ["row 2"] + ["step"] * 2 + ["row 4"] + ["step", "row 6"]
    assert order == expected


def test_rows_are_unique_after_a_resume(toy_run):
    toy_run.go(8)
    logger = toy_run.folder / "metrics.jsonl"
    logger.write_text(logger.read_text() + json.dumps({"step": 9, "time": 0.0}) + "\n")
    toy_run.go(12, start=8)
    steps = [r["step"] for r in toy_run.rows()]
    assert steps == sorted(set(steps)) == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("sync", ["constant", "guard"])
def test_a_hidden_transfer_in_the_loop_is_an_error(toy_run, sync):
    real = toy_run.compiled

    def run(state, totals, batch):
        state, totals, loss = real.run(state, totals, batch)
        if sync == "constant":
            loss = loss * np.float32(2.0)  # a number on the host, transferred again at every step
        else:
            # on CPU memory is shared and float(loss) transfers nothing; elsewhere it raises
            assert jax.config.jax_transfer_guard_device_to_host == "disallow"
            if jax.default_backend() == "cpu":
                raise RuntimeError("Disallowed device-to-host transfer")
            float(loss)
        return state, totals, loss

    toy_run.compiled = step_lib.TrainStep(run, real.zeros)
    with pytest.raises(Exception, match=r"Disallowed .*transfer"):
        toy_run.go(4)


def test_the_loop_itself_never_waits_for_a_number(toy_run, monkeypatch):
    """Transfer guards miss reads of CPU memory, so this test forbids the conversions themselves."""
    array = type(jnp.zeros(()))

    def forbidden(self, *args):
        raise AssertionError("a device array was converted on the host")

    for name in ("__float__", "__int__", "__bool__", "__index__", "__format__", "item", "tolist"):
        monkeypatch.setattr(array, name, forbidden)
    toy_run.go(6)


def test_hooks_may_transfer_and_their_numbers_are_logged(toy_run):
    seen = []

    def hook(step, state):
        seen.append(step)
        return {"valid/norm": float(jnp.sum(state.params["decoder"] * 2))}

    toy_run.go(7, hooks=[(hook, 3), (lambda step, state: None, 2)])
    assert seen == [3, 6, 7]
    assert [r["step"] for r in toy_run.rows() if "valid/norm" in r] == [3, 6, 7]


def poison(first):
    def change(n, batch):
        bad = np.full(toy.BATCH, np.nan, np.float32)
        return batch | ({"weight": bad} if n + 1 == first else {})

    return change


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(toy_run):
    with pytest.raises(hooks.NotFiniteError, match=r"not finite at step 7\. .*checkpoints/5"):
        toy_run.go(20, change=poison(7))
    assert toy_run.checkpoints.latest() == 5


def test_no_state_is_saved_at_the_step_that_is_not_finite(toy_run):
    with pytest.raises(hooks.NotFiniteError, match=r"at step 5.*kept: none yet"):
        toy_run.go(20, change=poison(5))
    assert toy_run.checkpoints.latest() is None
    toy_run.go(20, change=poison(5), nan=False, save_every=2)
    assert toy_run.checkpoints.latest() == 4


def test_a_collapse_names_the_part_the_step_and_the_value(toy_run):
    floors = {"target_std": 100.0}
    with pytest.raises(hooks.CollapseError, match=r"the targets collapsed: target_std is 0\.\d+"):
        toy_run.go(10, floors=floors, guard_after=3)
    assert [r["step"] for r in toy_run.rows()] == [2, 4]
    with pytest.raises(ValueError, match=r"config.guard.floors.other_std: .* no such metric"):
        toy_run.go(10, floors={"other_std": 1.0})


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("prediction_std", "the predictions"),
        ("frontend_std", "the front end"),
        ("instance_variance_ratio", "the targets, to the position alone,"),
    ],
)
def test_the_collapsed_part_is_named(name, part):
    with pytest.raises(hooks.CollapseError, match=f"{part} collapsed: {name} is 0.001 at step 9"):
        hooks.check_floors(9, {name: 0.001}, {name: 0.01})
    hooks.check_floors(9, {name: 0.02}, {name: 0.01})
    with pytest.raises(hooks.CollapseError):
        hooks.check_floors(9, {name: float("nan")}, {name: 0.01})


def test_sigterm_saves_and_ends(toy_run):
    def change(n, batch):
        if n == 8:  # read ahead while a step after the first is running
            signal.raise_signal(signal.SIGTERM) if _main() else _send()
        return batch

    before = signal.getsignal(signal.SIGTERM)

    def slow(step, state):
        return time.sleep(0.05)

    done = toy_run.go(1000, hooks=[(slow, 1)], change=change)
    assert done.stopped and 1 <= done.step < 1000
    assert toy_run.checkpoints.latest() == done.step
    assert signal.getsignal(signal.SIGTERM) is before


def _main():
    return threading.current_thread() is threading.main_thread()


def _send():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_finished_run_is_not_trained_again(toy_run):
    first = toy_run.go(5)
    again = toy_run.go(5, start=5)
    assert again.step == 5 and toy.bits(again.state) == toy.bits(first.state)


def test_too_few_batches_are_an_error(toy_run):
    with pytest.raises(ValueError, match=r"ended before step 4: shorten config.train.duration"):
        toy_run.go(10, last=3)


def test_an_error_of_the_data_is_raised_here_and_the_thread_ends(toy_run):
    def change(n, batch):
        if n == 3:
            raise OSError("row 3: no such file")
        return batch

    with pytest.raises(OSError, match=r"row 3"):
        toy_run.go(10, change=change)
    assert not [t for t in threading.enumerate() if t.name == "feed"]


def test_batches_are_read_ahead_and_not_further(mesh):
    asked = []

    def source():
        for n in range(20):
            asked.append(n)
            yield toy.rows(n)

    fed = prefetch.prefetch(source(), mesh_lib.batch_sharding(mesh), ahead=2)
    first = next(fed)
    deadline = time.monotonic() + 5
    while len(asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert asked == [0, 1, 2, 3]  # one taken, two ready, one being prepared
    assert first.examples == toy.BATCH and isinstance(first.batch["audio"], jax.Array)
    fed.close()
    assert not [t for t in threading.enumerate() if t.name == "feed"]


def test_validation_is_the_mean_over_the_split_without_padding(mesh, started):
    host, shardings, _, _ = started
    pure = step_lib.make_eval_step(toy.make_method(), mesh)
    evaluate = step_lib.compile_eval_step(pure, mesh, shardings)
    halves = [toy.rows(0), toy.rows(1)]
    halves[1]["weight"][4:] = 0
    state = jax.device_put(host, shardings)
    found = hooks.validation(evaluate, lambda: iter(halves), mesh)(7, state)
    parts = [jax.device_get(evaluate(state, rows))["loss"] for rows in halves]
    expected = sum(p[0] for p in parts) / sum(p[1] for p in parts)
    assert found["valid/loss"] == pytest.approx(expected, rel=1e-6)
    training = dict.fromkeys(("loss", "ema_decay", "temperature", "used_rows"), (1.0, 1.0))
    told = hooks.validation(lambda *given: training, lambda: iter(halves), mesh)(7, state)
    assert told == {"valid/loss": 1.0}  # the others mean nothing in an evaluation
    with pytest.raises(ValueError, match=r"config.data.valid gives no batch"):
        hooks.validation(evaluate, lambda: iter(()), mesh)(7, state)


def test_operations_per_second_are_those_of_the_step(toy_run, started):
    toy_run.go(4, peak=1e9)
    state = jax.eval_shape(lambda x: x, started[0])
    of_a_step = flops.of(started[3], state, toy.shapes())
    # forward: three products of a row; backward: both gradients of two of them
    assert of_a_step >= 2 * toy.BATCH * toy.SAMPLES * toy.WIDTH * (3 + 2)
    for row in toy_run.rows():
        done, examples = row["train/teraflop_per_second"], row["train/examples_per_second"]
        # one interval, so the time cancels out
        assert done / examples == pytest.approx(of_a_step / toy.BATCH / 1e12)
        assert row["train/utilization"] == pytest.approx(done * 1e12 / 1e9)


class Late:
    """A number that is ready on the device only at time `due`."""

    def __init__(self, value, due):
        self.value, self.due = value, due

    def block_until_ready(self):
        time.sleep(max(0.0, self.due - time.monotonic()))

    def __array__(self, dtype=None, copy=None):
        self.block_until_ready()
        return np.asarray(self.value)


def test_steps_that_are_only_given_to_the_device_do_not_count_as_done(toy_run):
    """After a pause the device is idle, and the host dispatches several steps at once."""
    took, real, due = 0.05, toy_run.compiled, [0.0]

    def run(state, totals, batch):
        state, totals, loss = real.run(state, totals, batch)
        due[0] = max(due[0], time.monotonic()) + took
        return state, jax.tree.map(lambda x: Late(x, due[0]), totals), Late(loss, due[0])

    toy_run.compiled = step_lib.TrainStep(run, real.zeros)
    toy_run.go(12, hooks=[(lambda step, state: None, 5)], log_every=1, save_every=100)
    rates = {row["step"]: row.get("train/examples_per_second") for row in toy_run.rows()}
    assert rates.pop(1) is None  # it was compiled
    assert sorted(rates) == list(range(2, 13))
    assert all(0 < rates[step] <= toy.BATCH / took for step in range(6, 13))


def test_the_peak_is_that_of_all_devices_at_the_precision(monkeypatch):
    assert flops.peak("float32") == 0  # none is known for a CPU
    monkeypatch.setattr(flops.chips, "of_device", lambda kind: chips.CHIPS["h100"])
    count = jax.device_count()
    assert flops.peak("bfloat16") == count * 989e12 and flops.peak("float32") == count * 495e12


def test_the_profile_covers_the_steps_asked_for(toy_run):
    toy_run.go(4, profile="2:3")
    assert list((toy_run.folder / "profile").rglob("*.xplane.pb"))
    assert checkpoint.restore_params(toy_run.folder) is not None


def evaluating(batches, at, seen):
    """Returns a hook over `batches` batches; SIGTERM arrives at batch `at`."""

    def hook(step, state):
        for batch in stop.between(range(batches)):
            seen.append((step, batch))
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGTERM)
        return {"valid/loss": 1.0}

    return hook


@pytest.mark.parametrize("best", ["", "valid/loss"])
def test_sigterm_in_an_evaluation_saves_its_step_and_the_next_run_makes_it(toy_run, best):
    seen = []
    hook = evaluating(9, 4, seen)
    done = toy_run.go(20, hooks=[(hook, 5)], best_metric=best)
    assert done.stopped and done.step == 5 and seen == [(5, 0), (5, 1), (5, 2), (5, 3)]
    toy_run.checkpoints.wait()
    assert toy_run.checkpoints.latest() == 5
    assert [r["step"] for r in toy_run.rows() if "valid/loss" in r] == []
    done = toy_run.go(12, start=5, hooks=[(hook, 5)], best_metric=best)
    assert done.step == 12 and not done.stopped
    assert [r["step"] for r in toy_run.rows() if "valid/loss" in r] == [5, 10, 12]
    assert not (toy_run.folder / "evaluating.txt").exists()
    toy_run.go(12, start=12, hooks=[(hook, 5)], best_metric=best)
    assert seen[-1] == (12, 8) and len(seen) == 4 + 3 * 9  # none is evaluated twice


def test_the_evaluation_of_the_last_step_is_made_by_the_run_that_goes_on(toy_run):
    seen = []
    hook = evaluating(9, 2, seen)
    done = toy_run.go(4, hooks=[(hook, 0)])
    assert done.stopped and done.step == 4
    done = toy_run.go(4, start=4, hooks=[(hook, 0)])
    assert not done.stopped and len(seen) == 2 + 9
    assert toy_run.rows()[-1]["valid/loss"] == 1.0


def test_what_is_due_is_saved_before_the_evaluation_of_its_step(toy_run):
    found = []

    def hook(step, state):
        toy_run.checkpoints.wait()
        found.append((step, toy_run.checkpoints.latest()))
        raise ValueError("row 3 of valid.tsv is broken")

    with pytest.raises(ValueError, match="row 3"):
        toy_run.go(20, hooks=[(hook, 5)])
    assert found == [(5, 5)]


def test_sigterm_before_the_first_step_saves_nothing(toy_run):
    def change(n, batch):
        if n == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        return batch

    with pytest.raises(stop.Stopped) as ended:
        toy_run.go(10, change=change)
    assert ended.value.code == 0 and toy_run.checkpoints.latest() is None


def test_sigterm_while_the_data_hang_saves_the_step_before(toy_run, monkeypatch):
    monkeypatch.setattr(prefetch, "WAIT", 0.1)
    monkeypatch.setattr(stop, "PATIENCE", 0.1)
    stuck = threading.Event()

    def change(n, batch):
        if n == 9:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stuck.wait(30)
        return batch

    try:
        done = toy_run.go(20, change=change, save_every=100)
    finally:
        stuck.set()
    assert done.stopped and done.step == 9 and toy_run.checkpoints.latest() == 9


def test_a_loss_that_is_finite_and_absurd_stops_the_run():
    hooks.check_ceiling(10, 1e9, [])
    hooks.check_ceiling(20, 900.0, [0.01, 0.02])
    hooks.check_ceiling(30, 1e5, [190.0, 200.0, 5.0])
    with pytest.raises(hooks.NotFiniteError, match=r"is 3e\+03 up to step 40, above 2e\+03"):
        hooks.check_ceiling(40, 3000.0, [2.0, 1.0, 3.0])


def test_ctrl_c_saves_and_says_so_in_one_line(toy_run, capfd):
    def ask(step, state):
        signal.raise_signal(signal.SIGINT) if step == 3 else None

    done = toy_run.go(10, hooks=[(ask, 1)])
    assert done.stopped and toy_run.checkpoints.latest() == done.step
    told = [line for line in capfd.readouterr().err.splitlines() if "Ctrl-C" in line]
    assert told == [f"Ctrl-C: saved step {done.step}; the same command goes on from it"]


def test_a_compilation_is_shown_and_a_loss_follows_at_once(toy_run, capfd, monkeypatch):
    shown = []
    waiting = log.Progress.waiting
    monkeypatch.setattr(
        log.Progress, "waiting", lambda self, text: shown.append(text) or waiting(self, text)
    )
    toy_run.go(6, shapes=3)
    first, text = shown
    assert first == "reading the first batch"
    assert text.startswith("compiling step for ") and text.endswith(" (1 of 3 shapes)")
    lines = [x for x in capfd.readouterr().err.splitlines() if x.startswith("step 1/6")]
    assert lines[0].startswith("step 1/6 (17%)  loss 0.")


def test_steps_before_a_compilation_have_ended_when_it_begins(toy_run):
    late = [Late(0.0, 0.0) for _ in range(3)]
    run = loop._Run(
        toy_run.compiled,
        toy.options(10),
        toy_run.checkpoints,
        toy.open_logger(toy_run.folder),
        [],
        0,
        io.StringIO(),
    )
    run.running.extend(loop._Given(n, x, 1.0, 1.0, 0.0, False) for n, x in enumerate(late, 1))
    batch = prefetch.DeviceBatch({"audio": np.zeros((2, 4))}, 2.0, 1.0)
    with run._compiling(4, batch):
        assert not run.running


def test_the_time_left_knows_the_evaluations_that_were_made(toy_run):
    hooks = [(None, 4), (None, 0)]
    run = loop._Run(
        toy_run.compiled,
        toy.options(10),
        toy_run.checkpoints,
        toy.open_logger(toy_run.folder),
        hooks,
        0,
        io.StringIO(),
    )
    assert run.rest(2) == (0.0, True)
    run.took[0] = 5.0
    assert run.rest(2) == (15.0, True)  # after steps 4, 8 and 10; of the other nothing is known
    run.took[1] = 7.0
    assert run.rest(8) == (12.0, False)
