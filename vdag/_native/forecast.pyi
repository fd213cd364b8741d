"""How a query would go under all plans, and the best of them; see `reference_forecast`."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from vdag._native.forecast_terms import Config, Givens, Goal, Hit, Refusal, Search

__all__ = ["Forecast", "Givens", "Goal", "Hit", "Search"]

@final
class Forecast:
    def __new__(cls, givens: Givens) -> Forecast: ...
    @property
    def accuracy(self) -> NDArray[np.float64]: ...
    def work(self) -> NDArray[np.float64]: ...
    def search(self, goal: Goal, refuse: Refusal | None = None) -> Search: ...
    def place(
        self, goal: Goal, config: Config, refuse: Refusal | None = None
    ) -> tuple[Hit | None, tuple[int, ...] | None]: ...
    def closest(self, limit_s: float, *, free_only: bool) -> tuple[float, Hit] | None: ...
    def weigh(
        self, config: Config, crowding: float, *, free_only: bool
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
