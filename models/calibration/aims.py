"""What a calibration aims at: each says where the gate is to stand."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import asdict

from ..errors import ConfigError
from ..manifest import Budget

_MOST_PER_HOUR = 1e12


class TargetRate(Struct, frozen=True):
    """At most the share ``rate`` of samples like those of calibration escalates."""

    rate: float


class PaperQuantiles(Struct, frozen=True):
    """The paper's gate: vacuity, all three thresholds at their 70 % quantiles.

    The paper itself puts the first at 0.7, whatever the model: some models never reach that,
    others always do. `Calibration.method` says how many of the rows would.
    """


class TargetAccuracy(Struct, frozen=True, kw_only=True):
    """What the edge answers alone is right in the share ``accuracy``, held with ``confidence``.

    ``by`` "row": of samples like those of calibration, guaranteed. "group": of a new group, a
    person say, which is unlike those of calibration as they are unlike each other: empirical.
    """

    accuracy: float
    confidence: float = 0.95
    by: Literal["row", "group"] = "row"


class BudgetAim(Struct, frozen=True, kw_only=True):
    """No more escalates than ``budget`` allows, of ``samples_per_hour``.

    ``bytes_per_ask`` is what one escalation takes on the wire; a budget of bytes needs it.
    """

    budget: Budget
    samples_per_hour: float
    bytes_per_ask: float | None = None


Aim: TypeAlias = TargetRate | PaperQuantiles | TargetAccuracy | BudgetAim


def budget_rate(aim: BudgetAim) -> float:
    """Return the share of samples that the budget lets escalate, at most 1.

    >>> budget_rate(BudgetAim(budget=Budget(messages_per_hour=90.0), samples_per_hour=3600.0))
    0.025
    """
    budget, hourly = aim.budget, aim.samples_per_hour
    rates = [1.0]
    if budget.messages_per_hour is not None:
        rates.append(budget.messages_per_hour / hourly)
    if budget.bytes_per_hour is not None and aim.bytes_per_ask is not None:
        rates.append(budget.bytes_per_hour / (aim.bytes_per_ask * hourly))
    return min(rates)


def check_aim(aim: Aim) -> None:
    """Refuse an aim that no gate can have.

    Raises:
        ConfigError: which number it is.
    """
    match aim:
        case TargetRate(rate=rate) if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"{rate} is not within [0, 1]", where="rate")
        case TargetAccuracy(accuracy=accuracy) if not 0.0 < accuracy < 1.0:
            raise ConfigError(f"{accuracy} is not between 0 and 1", where="accuracy")
        case TargetAccuracy(confidence=confidence) if not 0.5 <= confidence < 1.0:
            raise ConfigError(f"{confidence} is not within [0.5, 1)", where="confidence")
        case BudgetAim():
            _check_budget(aim)


def _check_budget(aim: BudgetAim) -> None:
    numbers = (aim.samples_per_hour, aim.bytes_per_ask)
    if any(number is not None and not number > 0 for number in numbers):
        raise ConfigError("samples per hour and bytes per ask are above 0", where="budget")
    if aim.budget.bytes_per_hour is not None and aim.bytes_per_ask is None:
        raise ConfigError(
            "a budget of bytes needs the bytes that one escalation takes", where="budget"
        )
    given = {name: one for name, one in asdict(aim.budget).items() if one is not None}
    if len(given) != 1:
        what = "of messages or of bytes, not of both" if given else "neither messages nor bytes"
        raise ConfigError(what, where="budget")
    for name, amount in given.items():
        if not 1 <= amount <= _MOST_PER_HOUR:
            raise ConfigError(f"{amount} is not within [1, 1e12]", where=f"budget.{name}")
