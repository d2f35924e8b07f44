"""What a model and its filter take of the board's energy, where a sensor can tell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.filtering.worth import Saving, Verdict, Worth, saving_of, worth
from ...telemetry.boards.detect import Detected
from ...telemetry.power.reader import PowerReader
from ..bench.course import Recorder
from ..bench.energy import WINDOWS, measure_energy
from ..bench.energy_record import Energy
from ..bench.lines import energy_line, joules
from ..bench.rounds import Contender
from .load import Load
from .pair import Batch, Pair

_NAMES = "the model", "the filter"
_NOTHING = np.zeros(0)


class EnergyCosts(Struct, frozen=True, kw_only=True):
    """Joules of one sample each, of samples as they come, and what that is worth at their rate.

    ``worth`` None: the sensor cannot tell one of them from nothing.
    """

    model: Energy
    filter: Energy
    worth: Worth | None
    saving: Saving | None = None


def energy_costs(
    pair: Pair,
    load: Load,
    reader: PowerReader,
    *,
    board: Detected,
    rate: float,
    rate_hz: float,
    show: Callable[[str], object] = str,
) -> EnergyCosts | None:
    """Measure both in turn (`bench.energy`), for about half a minute; None: nothing reads power.

    ``rate`` is the share of samples that is filtered, ``rate_hz`` how often the sensor is read.
    It is closed in any case. ``show`` hears how far that is.

    Raises:
        ModelError: a model failed.
        HedgeError: the thread that reads the sensor died.
    """
    if not reader.source.rails:
        reader.close()
        return None

    def filtering(batch: Batch) -> NDArray[np.floating]:
        pair.filter(batch)
        return _NOTHING

    def serving(batch: Batch) -> NDArray[np.floating]:
        pair.model(batch)
        return _NOTHING

    with Recorder(board, reader, rate_hz=rate_hz) as recorder:
        model, part = measure_energy(
            [Contender(_as_it_is, serving), Contender(_as_it_is, filtering)],
            load.mixed(rate),
            meter=recorder.meter,
            source=recorder.source,
            period_s=recorder.period_s,
            show=lambda which, state: show(f"{_NAMES[which]}: {state}"),
        )
    return costs_of(model, part, rate=rate)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def costs_of(model: Energy, part: Energy, *, rate: float) -> EnergyCosts:
    """Return what the joules of a model and of its filter come to."""
    if model.joules is None or part.joules is None:
        return EnergyCosts(model=model, filter=part, worth=None)
    found = worth(rate, filter_cost=part.joules, model_cost=model.joules)
    return EnergyCosts(
        model=model, filter=part, worth=found, saving=_saving(model, part, rate=rate)
    )


def _saving(model: Energy, part: Energy, *, rate: float) -> Saving | None:
    """Return the saving by windows, which are in turn; None: they do not tell."""
    pairs = list(zip(part.windows_j, model.windows_j, strict=False))
    if len(pairs) < WINDOWS or min(model_j for _, model_j in pairs) <= 0:
        return None
    return saving_of([rate - part_j / model_j for part_j, model_j in pairs])


def energy_words(costs: EnergyCosts | None, *, rate: float) -> str:
    """Return what energy says of a filter that filters ``rate`` of the samples."""
    if costs is None:
        return "in energy: nothing here reads power, so only time is judged"
    if costs.worth is None or costs.model.joules is None or costs.filter.joules is None:
        return (
            f"in energy: it cannot be told; the filter: {energy_line(costs.filter)}; "
            f"the model: {energy_line(costs.model)}"
        )
    verdict = verdict_of(costs)
    word = "whether it pays cannot be told" if verdict == "cannot be told" else f"it {verdict}"
    source = costs.model.source + (", REPLAYED" if costs.model.replayed else "")
    saved = f"{costs.worth.saved:.1%}" if costs.saving is None else str(costs.saving)
    return (
        f"in energy {word}: a filter of {joules(costs.filter.joules)} before a model of "
        f"{joules(costs.model.joules)} ({source}) has to filter more than "
        f"{costs.worth.needed:.1%}, and filters {rate:.1%}; {saved} of the "
        "model's energy are saved"
    )


def verdict_of(costs: EnergyCosts | None) -> Verdict | None:
    """Return the verdict in energy; None: nothing could tell."""
    if costs is None or costs.worth is None:
        return None
    if costs.saving is not None:
        return costs.saving.verdict
    return "pays" if costs.worth.pays else "does not pay"
