"""The time that a program still needs, from expected times of its stages and actual ones so far."""

import dataclasses

from ssl_jax.core.progress import clock_text


@dataclasses.dataclass
class TimeLeft:
    """Expected seconds of the stages to go, by name, corrected by the pace of those that ended."""

    expected: dict[str, float] = dataclasses.field(default_factory=dict)
    jobs: int = 1  # stages that run at the same time
    actual: float = 0.0
    predicted: float = 0.0

    def count(self, name: str, seconds: float) -> None:
        """Counts a stage that has ended after `seconds`."""
        expected = self.expected.pop(name, 0.0)
        if expected:
            self.predicted += expected
            self.actual += seconds

    def text(self) -> str:
        """Returns the number of stages to go and the time that they will take, "" for none."""
        pace = self.actual / self.predicted if self.predicted else 1.0
        left = pace * sum(self.expected.values()) / self.jobs
        stages = f"{len(self.expected)} stage{'s' * (len(self.expected) > 1)}"
        return f"{stages} to go, about {clock_text(left)}" if self.expected else ""
