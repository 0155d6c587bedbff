"""BaMSOO: SOO that does not evaluate what cannot be best (Wang et al. 2014), for minimising.

Z. Wang, B. Shakibi, L. Jin, N. de Freitas, "Bayesian multi-scale optimistic optimization", AISTATS 2014: a Gaussian
process is fitted to all values. A centre that it holds for worse than the best one, with confidence, is not evaluated;
its cell is sorted by the pessimistic bound.
"""

import math
import warnings
from collections.abc import Iterator, Sequence

from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from threadpoolctl import threadpool_limits

from bbo.errors import InputError
from bbo.optimizers.soo import SOO, Leaf
from bbo.space import Point, Space

_PATIENCE = 50
"""So many bounds in a row, and the next centre is evaluated whatever it promises: no search goes on for ever."""


class BaMSOO(SOO):
    """As SOO, but for the decision to evaluate a centre, right with probability 1 - eta.

    It depends on the outcomes of all points before it. All parts of a cell are judged by the same ones, so that they
    can be asked for together; the paper hears of each before it judges the next.
    """

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        k: int = 3,
        h_max: int | None = None,
        eta: float = 0.05,
    ) -> None:
        super().__init__(space, x0, budget, seed, k=k, h_max=h_max)
        if not 0 < eta < 1:
            raise InputError(f"--set eta: must be between 0 and 1, got {eta:g}")
        self._eta = eta
        self._considered = 0  # N
        self._in_a_row = 0
        self._model = GaussianProcessRegressor()
        self._fitted = 0
        self._bounded: dict[Point, float] = {}

    def _sweeps(self) -> Iterator[bool]:
        yield from super()._sweeps()
        # Each point of a finite space is a cell by now: what is left of the budget goes to those with a bound alone.
        evaluated = {leaf.point for leaf in self._proposed}
        left = sorted(self._bounded.keys() - evaluated, key=lambda point: (self._bounded[point], point))
        self._proposed += [Leaf([], point) for point in left]

    def _needed(self, leaves: Sequence[Leaf]) -> Sequence[Leaf]:
        return self._proposed

    def _bound(self, point: Point) -> float | None:
        self._considered += 1
        known = [leaf for leaf in self._proposed if not math.isnan(leaf.value)]  # D_t
        finite = [leaf.value for leaf in known if leaf.value < math.inf]
        if len(finite) < 2 or self._in_a_row >= _PATIENCE:
            self._in_a_row = 0
            return None
        mean, deviation = self._predict(point, known, max(finite))
        width = deviation * math.sqrt(2 * math.log(math.pi**2 * self._considered**2 / (6 * self._eta)))  # B_N
        if mean - width <= min(finite):  # could be best (U_N >= f+ where the paper maximises)
            self._in_a_row = 0
            return None
        self._in_a_row += 1
        self._bounded[point] = mean + width  # L_N
        return self._bounded[point]

    def _predict(self, point: Point, known: Sequence[Leaf], worst: float) -> tuple[float, float]:
        """Mean and standard deviation at a point. A failure counts as the worst value there is."""
        with threadpool_limits(1), warnings.catch_warnings():  # one thread: the same bits on any number of cores
            warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound
            if len(known) > self._fitted:
                kernel = ConstantKernel(1, (0.01, 100)) * Matern([0.5] * len(self._root), (0.05, 10), nu=2.5)
                self._model = GaussianProcessRegressor(kernel, alpha=1e-6, normalize_y=True)
                values = [min(leaf.value, worst) for leaf in known]
                self._model.fit([self._scaled(leaf.point) for leaf in known], values)
                self._fitted = len(known)
            (mean,), (deviation,) = self._model.predict([self._scaled(point)], return_std=True)
        return float(mean), float(deviation)

    def _scaled(self, point: Point) -> list[float]:
        return [(x - side.low) / (side.high - side.low or 1) for x, side in zip(point, self._root, strict=True)]
