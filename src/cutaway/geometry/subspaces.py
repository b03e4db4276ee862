"""Subspaces of an activation: where it varies over the tokens of one set of texts, to be removed on another.

The sample is always the tokens: the mean is over tokens, one number a feature, and the covariance is of features. Its
eigenvalues are variances; the squared singular values of activations from which no mean was taken are not (they are
energy, and their first direction is mostly the mean).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..edits.removals import orthonormal
from ..errors import BadInput
from ..parts import TOKENS
from ..places import check_site
from ..prompts import Prompts
from ..results import run_card
from ..resume.parts import Parts
from ..saving import check_free, reading, write_file
from .moments import Moments, moments

if TYPE_CHECKING:
    from ..model import Model

Card = dict[str, str | int | float]


@dataclass(frozen=True, eq=False)
class Subspace:
    """What `cutaway.project_out` takes: orthonormal rows around a mean, and where they come from.

    Attributes:
        site, layer: where it was fitted.
        mean: [width], over tokens, in float64. basis: [rank, width], orthonormal rows.
        variances: [rank], of the fitted tokens along each row (eigenvalues, where the rows are components), in the
            activation's unit squared.
        share: of the total variance that lies in the subspace, between 0 and 1.
        n_tokens: how many tokens it was fitted on.
        name: what it is, in words.
        card: where it comes from: model, weights, prompts' hash, versions.
    """

    site: str
    layer: int | None
    mean: Tensor
    basis: Tensor
    variances: Tensor
    share: float
    n_tokens: int
    name: str
    card: Card = field(default_factory=dict, repr=False)

    @property
    def rank(self) -> int:
        return len(self.basis)

    @property
    def width(self) -> int:
        return self.basis.shape[1]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """How one site varies over tokens: its mean, and its components with their variances, largest first.

    Attributes:
        mean: [width]. eigenvalues: [width], descending, of the covariance over tokens (divided by n - 1).
        components: [width, width], a row each, in the same order; their signs are such that the largest entry is
            positive.
        n_tokens: tokens seen. Of the components, `rank` = min(width, n_tokens - 1) at most can differ from nothing.
    """

    site: str
    layer: int | None
    mean: Tensor
    eigenvalues: Tensor
    components: Tensor
    n_tokens: int
    card: Card = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, found: Moments, site: str, layer: int | None, card: Card | None = None) -> Spectrum:
        """From moments over tokens.

        Raises:
            BadInput: fewer than two tokens, values that are not finite, or ones that do not vary at all.
        """
        place = site if layer is None else f"L{layer}.{site}"
        if found.n < 2:
            raise BadInput(f"{place}: {found.n} token is too few to say how an activation varies. Give more texts.")
        covariance = found.covariance
        if not bool(torch.isfinite(covariance).all() and torch.isfinite(found.mean).all()):
            raise BadInput(f"{place} holds values that are not finite on these texts, so no subspace can be fitted.")
        if float(covariance.diagonal().sum()) <= 0:
            raise BadInput(f"{place} is the same in all {found.n} tokens: there is nothing to remove.")
        values, vectors = torch.linalg.eigh(covariance)  # real and ascending: the covariance is symmetric
        rows = vectors.T.flip(0)
        sign = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
        return cls(site, layer, found.mean, values.flip(0).clamp_min(0), rows * sign, found.n, card or {})

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def rank(self) -> int:
        return min(self.width, self.n_tokens - 1)

    @property
    def total(self) -> float:
        """Variance in all directions together."""
        return float(self.eigenvalues.sum())

    @property
    def shares(self) -> Tensor:  # [width]
        """Share of the variance along each component."""
        return self.eigenvalues / self.total

    def holding(self, share: float) -> int:
        """How many leading components hold this share of the variance."""
        reached = self.shares.cumsum(0) >= share - 1e-12
        return int(reached.nonzero()[0]) + 1 if bool(reached.any()) else self.width

    def to_xarray(self) -> xr.Dataset:
        """As `Spectra.to_xarray`, of this layer alone."""
        return Spectra({0 if self.layer is None else self.layer: self}).to_xarray()

    # -- subspaces ------------------------------------------------------------------------------------------------

    def leading(self, k: int = 1) -> Subspace:
        """The span of the first k components."""
        self._check(k, "components")
        return self._made(self.components[:k], f"first {k} components" if k > 1 else "first component")

    def component(self, i: int) -> Subspace:
        """One component, counted from 1.

        Raises:
            BadInput: there is no such component, or these tokens are too few to tell it.
        """
        self._check(i, "components")
        return self._made(self.components[i - 1 : i], f"component {i}")

    def random(self, k: int = 1, seed: int = 0) -> Subspace:
        """A random subspace of k dimensions, every one equally likely."""
        self._check(k, "dimensions", self.width)
        return self._made(_uniform(k, self.width, seed), f"random, {k} dim., seed {seed}")

    def random_within(self, m: int, k: int = 1, seed: int = 0) -> Subspace:
        """A random subspace of k dimensions within the span of the first m components, every one equally likely."""
        self._check(m, "components")
        self._check(k, "dimensions", m)
        return self._made(_uniform(k, m, seed) @ self.components[:m], f"random within {m} components, seed {seed}")

    def given(self, directions: Any, name: str = "given directions") -> Subspace:
        """The span of given directions [rank, width] (or one, [width]) around the fitted mean.

        Raises:
            BadInput: they are of another width, dependent, or not finite.
        """
        basis = orthonormal(directions)
        if basis.shape[1] != self.width:
            raise BadInput(f"The directions have width {basis.shape[1]}, and {self.site} has width {self.width}.")
        return self._made(basis, name)

    def _check(self, k: int, what: str, most: int | None = None) -> None:
        most = self.rank if most is None else most
        if not 1 <= k <= most:
            why = f": it was fitted on {self.n_tokens} tokens" if most == self.rank < self.width else ""
            raise BadInput(f"{k} {what} were asked for, and there are 1 to {most}{why}.")

    def _made(self, basis: Tensor, name: str) -> Subspace:
        along = (self.components @ basis.T).square()  # [component, row]
        variances = self.eigenvalues @ along
        share = float(variances.sum()) / self.total
        return Subspace(self.site, self.layer, self.mean, basis, variances, share, self.n_tokens, name, self.card)


class Spectra(dict[int, Spectrum]):
    """Layer -> how one site varies there, as `fit_subspaces` gives it; `cutaway.show` shows it."""

    def to_xarray(self) -> xr.Dataset:
        """The spectra as labelled arrays, to be shown, saved or plotted.

        Returns:
            Dataset over layer and component (from 1): `eigenvalue`, the variance along it, in the activation's unit
            squared; `share` of the variance, and `cumulative`, that of all components up to it; NaN beyond a layer's
            width. Over layer: `tokens`, fitted on; `total`, the variance in all directions. Means and components are
            not in it: `save_subspaces` keeps those of a subspace.

        Raises:
            BadInput: there is no layer.
        """
        if not self:
            raise BadInput("There is no layer in these spectra. Fit at least one.")
        first, widest = next(iter(self.values())), max(one.width for one in self.values())
        values = np.full((len(self), widest), np.nan)
        for row, one in zip(values, self.values(), strict=True):
            row[: one.width] = one.eigenvalues.numpy()
        total = np.nansum(values, axis=1)
        share = values / total[:, None]
        over = ("layer", "component")
        data = {
            "eigenvalue": (over, values),
            "share": (over, share),
            "cumulative": (over, share.cumsum(axis=1)),
            "tokens": ("layer", [one.n_tokens for one in self.values()]),
            "total": ("layer", total),
        }
        coords = {"layer": list(self), "component": np.arange(1, widest + 1)}
        card = {key: value for key, value in first.card.items() if key != "layer"}
        return xr.Dataset(data, coords, {**card, "site": first.site, "units": "squared units of the activation"})


def _uniform(k: int, width: int, seed: int) -> Tensor:
    """Orthonormal rows spanning a uniformly distributed subspace: those of a normal matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, k, dtype=torch.float64, generator=generator)).Q.T


def fit_subspaces(
    model: Model,
    prompts: Prompts | Iterable[Prompts],
    site: str,
    layers: Sequence[int] | None = None,
    *,
    start: int = 1,
    batch: int = TOKENS,
) -> Spectra:
    """How a site varies over the tokens of some texts, layer by layer: a mapping from layer to `Spectrum`.

    Args:
        prompts: texts to fit on, not those on which the removal is tested; or any iterable of them, one held
            at a time. Memory is one batch of activations and one square matrix a layer, for any number of texts.
        site: `mlp_pre`, `mlp_act`, `mlp_out`, `attn_out`, `resid_pre`, `resid_mid` or `resid_post`.
        layers: default all. start: first position that counts (position 0 is left out). batch: tokens at a time.

    Raises:
        BadInput: no token left, values that are not finite, a site of several vectors a token.
        Refused: the site does not exist in this model or is not certified.
    """
    if site not in ("mlp_pre", "mlp_act", "mlp_out", "attn_out", "resid_pre", "resid_mid", "resid_post"):
        raise BadInput(f"A subspace is fitted at mlp_pre, mlp_act, mlp_out, attn_out or resid_*, not at {site}.")
    chosen = list(range(model.n_layers)) if layers is None else [int(n) for n in layers]
    for layer in chosen:
        check_site(model, site, layer)
    hashes: list[str] = []

    def noted(sets: Iterable[Prompts]) -> Iterable[Prompts]:
        for some in sets:
            hashes.append(some.hash())
            yield some

    given = [*noted([prompts])] if isinstance(prompts, Prompts) else noted(prompts)
    found = cache(lambda: moments(model, given, [(site, layer) for layer in chosen], start=start, batch=batch))
    if not isinstance(given, list):
        found()  # only now it is known what they were
    card = run_card(model, fitted_on="+".join(hashes[:8]), fitted_sets=len(hashes), start=start)
    part = Parts(model, hashes, chosen, start, batch)

    def spectrum(layer: int) -> dict[str, Any]:
        return vars(Spectrum.of(found()[site, layer], site, layer, {**card, "layer": layer}))

    return Spectra({n: Spectrum(**part(f"components of L{n}.{site}", partial(spectrum, n))) for n in chosen})


# -- files --------------------------------------------------------------------------------------------------------


def to_bytes(subspaces: Mapping[str, Subspace] | Subspace) -> bytes:
    """Subspaces as safetensors, by name, with all that is known of them as metadata."""
    from safetensors.torch import save

    named = {"subspace": subspaces} if isinstance(subspaces, Subspace) else dict(subspaces)
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for name, one in named.items():
        tensors |= {f"{name}.{k}": getattr(one, k).contiguous() for k in ("mean", "basis", "variances")}
        facts[name] = {k: getattr(one, k) for k in ("site", "layer", "share", "n_tokens", "name", "card")}
    return save(tensors, metadata={"cutaway": "subspaces", "version": "1", "subspaces": json.dumps(facts)})


def save_subspaces(path: str | Path, subspaces: Mapping[str, Subspace] | Subspace, force: bool = False) -> None:
    """Write subspaces to one safetensors file.

    Raises:
        BadInput: the file exists and `force` is not given, or cannot be written.
    """
    check_free(Path(path), force)
    write_file(Path(path), to_bytes(subspaces), force)


def load_subspaces(path: str | Path) -> dict[str, Subspace]:
    """Subspaces by name from such a file.

    Raises:
        BadInput: it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read as safetensors: {error}.") from None
    if facts.get("cutaway") != "subspaces":
        raise BadInput(f"{path} holds no subspaces that Cutaway saved. Give its tensors as directions instead.")
    made = {}
    with reading(Path(path), "Fit the subspaces again."):
        for name, known in json.loads(facts["subspaces"]).items():
            mean, basis, variances = (tensors[f"{name}.{k}"] for k in ("mean", "basis", "variances"))
            made[name] = Subspace(mean=mean, basis=basis, variances=variances, **known)
    return made
