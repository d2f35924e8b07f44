"""The decision table, row by row."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.manifest import Calibration
from hedge.models.opinion import Assessor
from hedge.models.records import Decision, Opinion, Probs
from hedge.runtime.policy import Policy

POLICY = Policy(total=0.5, epistemic=0.4, aleatoric=0.7, fusion=True)
_OUTPUTS = np.array([0.3, -1.0, 2.5])


def _opinion(score: float, *, evidence: bool = True) -> Opinion:
    alpha = np.array([2.0, 1.0, 1.5]) if evidence else None
    vacuity = score if evidence else None
    return Opinion(np.array([0.4, 0.3, 0.3]), score, "vacuity", vacuity, None, None, alpha)


def _decide(
    policy: Policy, opinion: Opinion, *, epistemic: float = 0.0, aleatoric: float = 0.0
) -> tuple[Decision, Opinion]:
    def deepen(plain: Opinion, outputs: Probs) -> Opinion:
        assert outputs is _OUTPUTS
        assert not plain.score < policy.total, "the costlier uncertainties were not needed"
        return msgspec.structs.replace(plain, aleatoric=aleatoric, epistemic=epistemic)

    return policy.decide(opinion, _OUTPUTS, deepen=deepen)


def test_below_the_gate_the_edge_answers_and_nothing_more_is_computed() -> None:
    opinion = _opinion(0.499)

    decision, same = _decide(POLICY, opinion, epistemic=1.0, aleatoric=1.0)

    assert decision == Decision("accept", "sure")
    assert same is opinion


@pytest.mark.parametrize("score", [0.5, 0.9])
@pytest.mark.parametrize(
    ("epistemic", "aleatoric", "expected"),
    [
        (0.4, 0.0, Decision("escalate", "epistemic")),
        (0.9, 0.9, Decision("escalate", "epistemic")),
        (0.399, 0.7, Decision("fuse", "aleatoric")),
        (0.0, 1.0, Decision("fuse", "aleatoric")),
        (0.399, 0.699, Decision("escalate", "neither")),
    ],
)
def test_past_the_gate_the_uncertainties_decide(
    score: float, epistemic: float, aleatoric: float, expected: Decision
) -> None:
    decision, deep = _decide(POLICY, _opinion(score), epistemic=epistemic, aleatoric=aleatoric)

    assert decision == expected
    assert (deep.epistemic, deep.aleatoric) == (epistemic, aleatoric)


def test_where_fusion_is_off_the_cloud_alone_answers() -> None:
    policy = Policy(total=0.5, epistemic=0.4, aleatoric=0.7)

    decision, _ = _decide(policy, _opinion(0.6), aleatoric=0.8)

    assert decision == Decision("escalate", "aleatoric")


@pytest.mark.parametrize(("neither", "action"), [("cloud", "escalate"), ("edge", "accept")])
def test_the_case_that_the_paper_leaves_open_is_the_calibration_s_to_settle(
    neither: Literal["cloud", "edge"], action: str
) -> None:
    policy = Policy(total=0.5, epistemic=0.4, aleatoric=0.7, neither=neither)

    decision, _ = _decide(policy, _opinion(0.6), epistemic=0.1, aleatoric=0.1)

    assert (decision.action, decision.reason) == (action, "neither")


def test_an_edge_without_evidence_escalates_past_the_gate() -> None:
    opinion = _opinion(0.5, evidence=False)

    decision, same = POLICY.decide(opinion, _OUTPUTS, deepen=lambda plain, _: plain)

    assert decision == Decision("escalate", "score")
    assert same is opinion


def test_without_thresholds_for_the_split_the_score_alone_decides() -> None:
    decision, _ = Policy(total=0.5).decide(_opinion(0.5), _OUTPUTS, deepen=_fail)

    assert decision == Decision("escalate", "score")


def test_a_threshold_that_is_missing_is_never_reached() -> None:
    only_noise = Policy(total=0.5, aleatoric=0.7, fusion=True)
    only_ignorance = Policy(total=0.5, epistemic=0.4, fusion=True)

    fused, _ = _decide(only_noise, _opinion(0.6), epistemic=1.0, aleatoric=0.9)
    escalated, _ = _decide(only_ignorance, _opinion(0.6), epistemic=0.1, aleatoric=1.0)

    assert fused == Decision("fuse", "aleatoric")
    assert escalated == Decision("escalate", "neither")


def test_a_score_that_is_no_number_does_not_pass_the_gate() -> None:
    decision, _ = _decide(POLICY, _opinion(float("nan")), epistemic=0.1, aleatoric=0.1)

    assert decision.action == "escalate"


def test_the_policy_takes_everything_from_the_calibration() -> None:
    calibration = Calibration(
        score="vacuity",
        total=0.25,
        epistemic=0.125,
        aleatoric=0.5,
        fusion=True,
        neither="edge",
        method="by hand",
        rows=3,
        data_sha256="0" * 64,
    )

    assert Policy.of(calibration) == Policy(
        total=0.25, epistemic=0.125, aleatoric=0.5, fusion=True, neither="edge"
    )


@given(
    st.lists(st.floats(-20.0, 20.0), min_size=4, max_size=4),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_real_opinions_fall_into_exactly_one_row_of_the_table(
    logits: list[float], total: float, epistemic: float, aleatoric: float
) -> None:
    assessor = Assessor(output="logits", head="evidential", classes=4)
    policy = Policy(total=total, epistemic=epistemic, aleatoric=aleatoric, fusion=True)
    outputs = np.array(logits)
    opinion = assessor.assess(outputs)

    decision, after = policy.decide(opinion, outputs, deepen=assessor.deepen)

    deep = assessor.deepen(opinion, outputs)
    assert deep.epistemic is not None
    assert deep.aleatoric is not None
    rows = {
        ("accept", "sure"): opinion.score < total,
        ("escalate", "epistemic"): opinion.score >= total and deep.epistemic >= epistemic,
        ("fuse", "aleatoric"): opinion.score >= total
        and deep.epistemic < epistemic
        and deep.aleatoric >= aleatoric,
        ("escalate", "neither"): opinion.score >= total
        and deep.epistemic < epistemic
        and deep.aleatoric < aleatoric,
    }
    assert [row for row, holds in rows.items() if holds] == [(decision.action, decision.reason)]
    assert (after.epistemic is None) == (decision.reason == "sure")


def _fail(_: Opinion, __: Probs) -> Opinion:
    raise AssertionError("the costlier uncertainties were not needed")
