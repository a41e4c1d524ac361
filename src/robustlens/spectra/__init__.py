"""Singular values of the linear map that each layer is.

A linear layer is its weight matrix, and so is each projection of an attention layer; a BatchNorm in eval mode
is a factor for each channel. A convolution is a matrix too, which depends on the size of its feature
map. Two such matrices are offered, by name, and the weight itself beside them; they are never mixed:

`"circular"`: the convolution with wrap-around borders, which the DFT makes block diagonal (Sedghi, Gupta and
Long 2019, "The singular values of convolutional layers"). Most of the literature uses it. It is cheap, but
where a stride does not divide the map: there the ways of "zero" are taken. On large maps it is close to the
layer, on small ones it is not (its largest value is off by some 10 % at 4x4).

`"zero"`: the layer as it is, zero padding and all: all values of small maps, by the dense matrix, and of
large ones the largest and smallest few (`extremes`), and the density of all with its error (`density`). A
layer that pads with anything else has none.

`"kernel"`: the weight laid flat, (outputs, inputs * kernel), whatever the feature map: the matrix whose
values singular value bounding holds (`weights.singular_values`), and not what the layer does to a map. Of a
linear layer it is the layer's own matrix.

A transposed convolution has the singular values of the convolution whose transpose it is. Whatever else has
weights is no linear map that this package knows: `uncovered` names it.

BatchNorm is not folded into the layers unless it is asked for. Where one follows, the scale of a weight is
arbitrary, and so is the raw spread of its singular values: read `std_over_mean` beside `std`, or fold.
"""

from robustlens.spectra.circular import circular_singular_values
from robustlens.spectra.coverage import Survey, trace, uncovered
from robustlens.spectra.density import Density
from robustlens.spectra.layers import Layer
from robustlens.spectra.summary import summarize
from robustlens.spectra.values import density, extremes, spectral_norms, spectrum

__all__ = [
    "Density",
    "Layer",
    "Survey",
    "circular_singular_values",
    "density",
    "extremes",
    "spectral_norms",
    "spectrum",
    "summarize",
    "trace",
    "uncovered",
]
