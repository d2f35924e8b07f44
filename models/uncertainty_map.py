"""Where in a picture the uncertainty of its answer lies: eq. 21."""

from __future__ import annotations

import numpy as np

from .evidence import Array, Figures


def uncertainty_map(features: Array, vacuity: Figures) -> Figures:
    """Return u · normalise(Σ_c mean_hw(F_c) · F_c), (N, H, W), in [0, u].

    ``features`` (N, C, H, W) are the last feature map F of N pictures, ``vacuity`` (N,) their u
    in [0, 1]. A channel weighs as much as it is active on the whole; each picture's sum is then
    brought to [0, 1] by its least and its greatest value. Where all values are equal the map
    is 0: nothing stands out.

    ▲ In eq. 21 u is inside the normalisation, which takes any factor of a whole picture away
    again: a sure picture would shine as an unsure one does. Here it is outside, so that maps
    can be compared, and over u they are those of eq. 21. Source: Lu et al., §6.5.

    >>> features = np.array([[[[0.0, 2.0]], [[4.0, 4.0]]]])  # two channels, 1 x 2: means 1 and 4
    >>> uncertainty_map(features, np.array([0.5])).tolist()  # sums 16 and 18
    [[[0.0, 0.5]]]
    """
    wide = features.astype(np.float64)
    active = wide.mean(axis=(2, 3))
    sums = np.einsum("nc,nchw->nhw", active, wide)
    low = sums.min(axis=(1, 2), keepdims=True)
    span = sums.max(axis=(1, 2), keepdims=True) - low
    parts = np.divide(sums - low, span, out=np.zeros_like(sums), where=span > 0)
    maps: Figures = vacuity[:, None, None] * parts
    return maps
