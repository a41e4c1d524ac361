"""What a run of AutoAttack says: accuracies as its attacks end, and reasons not to believe them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter

from robustlens.evaluation import Evaluation
from robustlens.progress import Event


class Survivors:
    """The images that stand, told as each attack ends: a listener of an evaluation.

    An evaluation that goes on after a stop, in the middle of its attacks, is told at its end alone.

    Args:
        names: of the attacks here, in order, by those that an evaluation gives them. n: number of images.
        log: takes each line.

    Attributes:
        lines: how many lines it has told.
    """

    def __init__(self, names: Mapping[str, str], n: int, log: Callable[[str], None]) -> None:
        self.n, self.log = n, log
        self._awaited = list(names.items())
        self.lines = 0
        self._robust = 0
        self._began = perf_counter()

    def __call__(self, event: Event) -> None:
        """Hear of a batch: its phase is "apgd-t 3/9", its note "12 of 16 robust"."""
        name, _, part = event.phase.partition(" ")
        number, _, count = part.partition("/")
        own_name, shown = self._awaited[0] if self._awaited else ("", "")
        if name != own_name:
            return
        if self.lines == 0 and number in ("", "1"):
            self._tell(f"initial accuracy: {event.total / self.n:.2%}", event.total)
        if self.lines > 0 and event.done == event.total and number == count:
            robust = int(event.note.split()[0])
            seconds = perf_counter() - self._began
            self._tell(_after(shown, robust / self.n, self._robust - robust, self._robust, seconds), robust)
            self._awaited.pop(0)

    def _tell(self, line: str, robust: int) -> None:
        self.log(line)
        self.lines, self._robust = self.lines + 1, robust


def _after(name: str, accuracy: float, broken: int, attacked: int, seconds: float) -> str:
    """The line of an attack that has ended; seconds since the first one began."""
    shown = f"{broken} of {attacked} attacked images broken, {seconds:.1f} s"
    return f"robust accuracy after {name}: {accuracy:.2%} ({shown})"


def lines_of(evaluation: Evaluation, names: Sequence[str]) -> Iterator[str]:
    """What a run says: accuracies after each attack, and reasons not to believe them."""
    yield f"initial accuracy: {evaluation.clean.double().mean():.2%}"
    seconds = 0.0
    masks = evaluation.by_attack
    for name, key in zip(names, masks, strict=True):
        seconds += evaluation.seconds[key]
        accuracy = float(masks[key].double().mean())
        yield _after(name, accuracy, evaluation.broken[key], evaluation.attacked[key], seconds)
    for flag in evaluation.flags:
        yield f"warning: {flag.message}"
    for note in evaluation.notes:
        yield f"note: {note}"
    yield f"robust accuracy: {evaluation.robust.double().mean():.2%}"
