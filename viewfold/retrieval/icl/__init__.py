"""In-context evaluation: how good chosen demonstrations are, by their labels alone or by a model's answers."""

from viewfold.retrieval.icl.answers import Answered, AnswerKey, AnswerLog
from viewfold.retrieval.icl.asking import Interview, Question, ask_all
from viewfold.retrieval.icl.calibration import auroc, expected_calibration_error
from viewfold.retrieval.icl.choices import VOTES, Choices, Coded, Pool, demo_measures
from viewfold.retrieval.icl.resampling import GroupResampling
from viewfold.retrieval.icl.spread import Leakage, domain_gap, neighbour_leakage

__all__ = [
    "VOTES",
    "AnswerKey",
    "AnswerLog",
    "Answered",
    "Choices",
    "Coded",
    "GroupResampling",
    "Interview",
    "Leakage",
    "Pool",
    "Question",
    "ask_all",
    "auroc",
    "demo_measures",
    "domain_gap",
    "expected_calibration_error",
    "neighbour_leakage",
]
