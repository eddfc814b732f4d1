"""Run an application in a test, without processes, files or sockets::

    result = wallaroo.testing.run(
        word_count.application_setup(["word_count", "--in", ...]),
        {"Words": ["a line", "another line"]},
    )
    assert result.values[-1] == ("line", 2)
    assert result.outputs["127.0.0.1:7002"][-1] == b"line => 2\\n"
    assert result.states["Count"]["line"].n == 2

Windows need times, which At gives; after the last input the clock goes on
until all windows have closed::

    At(seconds(5), "a line")

And try what crashes do to it::

    wallaroo.testing.simulate(application, {"Words": [...]})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, Optional, Union, cast

from . import _names, _simulate
from ._errors import WallarooParameterError
from ._framing import Cutter
from ._kafka_source import KafkaRecord
from ._machine import Machine
from ._reference import (
    DeadLetter,
    Executor,
    Late,
    Source,
    UserFunctionError,
    generated,
    show_key,
)
from ._schedule import FAULTS
from ._simulate import At, Decoded, Simulated, SimulationFailure
from ._timers import state_of

__all__ = [
    "At", "DeadLetter", "Decoded", "FAULTS", "Late", "Result", "Simulated",
    "SimulationFailure", "UserFunctionError", "run", "simulate",
]

Inputs = Union[Iterable[Any], bytes, int, None]


class Result(NamedTuple):
    """What came out of a run."""

    #: By sink, in the pipeline's order: what was written, call by call.
    #: A sink's name is its host:port, its path, or "stdout".
    outputs: dict[str, list[bytes]]
    #: The messages that reached the sinks, not encoded.
    values: list[Any]
    #: By stateful step and key: the state objects.
    states: dict[str, dict[str, Any]]
    #: Records that the policy "dead-letter" set aside.
    dead_letters: list[DeadLetter]
    #: Records that came too late for their windows of event times.
    late: list[Late]


def run(
    application: Any,
    inputs: Union[Mapping[str, Inputs], Iterable[tuple[str, Any]]],
    on_error: str = "fail",
    until: Optional[float] = None,
) -> Result:
    """Run what application_setup returned on the given inputs.

    `inputs` names sources, by the name given to wallaroo.source or to the
    source's configuration, and says what each yields, one source after the
    other:

    - a list: an item of bytes is a payload for the decoder (not a header;
      a line without its end), any other item is a decoded message, and so
      is Decoded(item); for a source in Kafka bytes are a record's value,
      and a KafkaRecord is a record;
    - bytes: the whole stream, headers and ends of lines included;
    - for a generator a number: so many of its values; None: all of them.

    Instead of a mapping it may be pairs (source's name, item of its list),
    where the order among sources matters.  In the end the clock goes on
    until nothing happens any more, or to the time `until`.  on_error is what
    an exception in a user function does if its decorator doesn't say: "fail"
    raises UserFunctionError.
    """
    executor = Executor(application, on_error)
    if isinstance(inputs, Mapping):
        for name, given in cast(Mapping[str, Inputs], inputs).items():
            _push_all(executor, _find(executor, name), given)
    else:
        for name, item in inputs:
            _push(executor, _find(executor, name), item)
    if until is None:
        executor.finish()
    else:
        executor.advance(int(until))
    return Result(
        dict(zip(executor.sink_names, executor.outputs)),
        executor.values,
        {
            step: {show_key(key): state_of(state)
                   for key, state in states.items()}
            for step, states in executor.states.items()
        },
        executor.dead_letters,
        executor.late,
    )


def simulate(
    application: Any,
    inputs: Union[Mapping[str, Inputs], Iterable[tuple[str, Any]]],
    seed: Optional[int] = None,
    *,
    schedules: int = 1000,
    faults: Sequence[str] = FAULTS,
    workers: Union[int, Sequence[int]] = (1, 2, 3),
    on_error: str = "fail",
    check: Optional[Callable[[Result], None]] = None,
    module: Any = None,
    schedule: Optional[str] = None,
) -> Simulated:
    """Find out whether crashes could show in what an application gives.

    Runs the application so many times, each time by another schedule: how
    the inputs are spread over workers, in which order these work, when they
    save checkpoints and when they die.  A worker that has died goes on as a
    real one: from the states in its checkpoint, each pickled by itself, and
    with its journal.  Then

    - a record that is worked on again must give what it gave before,
    - outputs and states must in the end be those of a run without a crash:
      per key those of one worker where their order is determined, else those
      that the same journals give.

    Anything else raises SimulationFailure (an AssertionError) with the
    smallest schedule and inputs that show it, a likely reason, and a line
    that runs it again.  Typical mistakes that are found: state that does not
    survive pickling, objects that two keys share, changing a message after
    passing it on, variables of a module or class, the order of a set.

    inputs is what wallaroo.testing.run takes; messages that are not bytes
    must be picklable, and the values of a generator are a number.  Five or
    ten records over a few keys find most, at thousands of schedules a
    second.  With windows, times move one clock for all workers, which goes
    on to their timers when nothing else is left to do before the next input.

    seed
        run only this schedule: a number that a failure has named; without it
        the seeds 0, 1, ... are run, always the same
    schedules
        how many
    faults
        some of "kill" (a worker, between two records), "kill-in-step" (while
        the functions run), "kill-all" (all at once)
    workers
        a number, or some to choose from
    check
        is called with the Result after each schedule, and may assert what
        holds whatever the order (a sum that stays the same); the order of its
        lists of outputs is that of no particular worker
    module
        the application's, if it has serialize() and deserialize()
    schedule
        run only this one: a text that a failure has printed

    Clocks and randomness of the standard library follow the record, as in
    workers, where the application's own modules use them.
    """

    def check_machine(machine: Machine) -> None:
        if check is not None:
            check(Result(
                dict(zip(machine.sink_names, machine.all_outputs())),
                [v for w in machine.workers for v in w.values],
                _by_step(machine, machine.all_states()),
                [letter for w in machine.workers for letter in w.letters],
                [],
            ))

    return _simulate.simulate(
        application, inputs, _find, seed, schedule, schedules, faults,
        workers, on_error, check_machine, module,
    )


def _by_step(
    machine: Machine, states: dict[tuple[str, bytes], Any]
) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {step: {} for step in machine.states}
    for (step, key), state in states.items():
        result[step][show_key(key)] = state_of(state)
    return result


def _find(executor: Executor, name: str) -> Source:
    for which in ("name", "other_name"):
        found = [s for s in executor.sources if getattr(s, which) == name]
        if len(found) == 1:
            return found[0]
    raise WallarooParameterError(
        "There is no one source called %r; the sources are %s."
        % (name, ", ".join(repr(s.name) for s in executor.sources))
    )


def _push_all(executor: Executor, source: Source, given: Inputs) -> None:
    if given is None or isinstance(given, int):
        if source.decoder is not None:
            raise WallarooParameterError(
                "%r is no generator: give its inputs." % source.name
            )
        for value in islice(generated(source.config[2]), given):
            executor.push(source, value)
    elif isinstance(given, (bytes, bytearray)):
        cutter = Cutter(source.decoder, source.max_size)
        for payload in chain(cutter.feed(bytes(given)), cutter.end()):
            executor.push_payload(source, payload)
    else:
        for item in given:
            _push(executor, source, item)


def _push(executor: Executor, source: Source, item: Any) -> None:
    time: Optional[int] = None
    watermark: Optional[int] = None
    if isinstance(item, At):
        time, watermark = int(item.time), item.watermark
        item = item.item
        executor.advance(time)
    if isinstance(item, Decoded):
        executor.push(source, item.value, time, watermark)
    elif isinstance(item, KafkaRecord) and source.config[0] in _names.KAFKA:
        executor.push_record(source, item, time, watermark)
    elif isinstance(item, (bytes, bytearray)) and source.decoder is not None:
        executor.push_payload(source, bytes(item), time, watermark)
    elif item is not None:
        executor.push(source, item, time, watermark)
