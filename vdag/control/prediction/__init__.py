"""Prediction: how a query would go under plans that it is not under.

Pure arithmetic over what a `Profile` knows, what `Surroundings` say and what was measured: no
clock, no socket, no state but the calibration that a policy carries from question to question.
`predict` does it for one candidate, `search` for all of them at once.
"""

from __future__ import annotations

from vdag.control.prediction.calibration import Calibration
from vdag.control.prediction.candidates import Candidate, Prediction, TaskPrediction, role_of
from vdag.control.prediction.learning import calibrate
from vdag.control.prediction.measured import Measured
from vdag.control.prediction.outlook import FULL, RATES, Outlook, Room
from vdag.control.prediction.predicting import (
    Course,
    accuracy_of,
    course_of,
    predict,
    predict_on,
    stay_at,
)
from vdag.control.prediction.searching import (
    ACCURACY_STEP,
    EPSILON,
    Aim,
    Config,
    Found,
    Refuse,
    ladder,
    place,
    quality,
    search,
    search_closest,
)
from vdag.control.prediction.tables import Tables

__all__ = [
    "ACCURACY_STEP",
    "EPSILON",
    "FULL",
    "RATES",
    "Aim",
    "Calibration",
    "Candidate",
    "Config",
    "Course",
    "Found",
    "Measured",
    "Outlook",
    "Prediction",
    "Refuse",
    "Room",
    "Tables",
    "TaskPrediction",
    "accuracy_of",
    "calibrate",
    "course_of",
    "ladder",
    "place",
    "predict",
    "predict_on",
    "quality",
    "role_of",
    "search",
    "search_closest",
    "stay_at",
]
