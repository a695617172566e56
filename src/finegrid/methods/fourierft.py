"""FourierFT: few entries of an update's spectrum (Gao et al. 2024, arXiv 2405.03003).

dW = scaling Re(IDFT2(F)), F (out, in) being zero but for `frequencies` entries, which train. Where
they lie is drawn uniformly from `key`, alike for matrices of one shape, and follows from it: a
delta holds the entries alone. They are drawn as peft 0.21 draws them (`random_loc_seed`).

Where we differ: the entries start at zero, so that the start is exactly the pre-trained model
(peft's `init_weights=True`); the authors' start from N(0, 1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finegrid.errors import require
from finegrid.methods.base import YAML, TuningMethod
from finegrid.methods.modules.update import Update, attach
from finegrid.models.anatomy import widths
from finegrid.models.sites import Sites


class SpectralUpdate(Update):
    """dW with few entries in its spectrum."""

    places: Tensor

    def __init__(
        self, inputs: int, outputs: int, *, frequencies: int, scaling: float, key: int
    ) -> None:
        super().__init__()
        self.shape, self.scaling, self.key = (outputs, inputs), scaling, key
        self.spectrum = nn.Parameter(torch.zeros(frequencies))
        generator = torch.Generator(device="cpu").manual_seed(key)
        places = torch.randperm(outputs * inputs, generator=generator, device="cpu")[:frequencies]
        self.register_buffer("places", places.to(self.spectrum.device), persistent=False)

    def matrix(self) -> Tensor:
        """The inverse transform's real part, out x in; in fp32, which the transform needs."""
        flat = self.spectrum.new_zeros(self.shape[0] * self.shape[1])
        dense = flat.index_put((self.places,), self.spectrum).view(self.shape)
        update: Tensor = torch.fft.ifft2(dense).real * self.scaling
        return update


class FourierFT(TuningMethod):
    """Inject an update by its spectrum at the matrices of some roles."""

    def __init__(
        self,
        *,
        roles: Sequence[str] | None = YAML,
        frequencies: int = YAML,
        scaling: float = YAML,
        key: int = YAML,
    ) -> None:
        self.roles, self.frequencies, self.scaling, self.key = roles, frequencies, scaling, key

    def apply(self, backbone: nn.Module, sites: Sites) -> None:
        """Attach it; raises UserError for more frequencies than a matrix has entries."""
        attach(sites, self.roles, "fourierft", self._made_for)

    def _made_for(self, linear: nn.Module, role: str) -> SpectralUpdate:
        inputs, outputs = widths(linear)
        require(
            1 <= self.frequencies <= inputs * outputs,
            f"method.frequencies={self.frequencies} must lie in [1, {inputs * outputs}], the "
            f"matrix of {role} being {outputs} x {inputs}",
        )
        return SpectralUpdate(
            inputs, outputs, frequencies=self.frequencies, scaling=self.scaling, key=self.key
        )
