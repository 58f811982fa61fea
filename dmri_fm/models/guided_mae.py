"""Masked autoencoder that corrects plain estimates of what is hidden.

Hidden directions start from predictions by a Gaussian process, hidden places from a regression on
the template's tissue (:mod:`dmri_fm.models.estimates`); the decoder's tokens and three
convolutions, which the tokens modulate, add what these miss. Visible patches have no such start:
all that is given back of them went through the encoder. Beside the patches, the scan's features
predict what its tissue would measure without noise (:mod:`dmri_fm.simulate`), where that is known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.errors import WeightsError
from dmri_fm.models.drope import SMALL, Drope
from dmri_fm.models.estimates import fill_places, predict_by_process, predict_by_tensor
from dmri_fm.models.layers import conv3d
from dmri_fm.models.mae import (
    Decoder,
    MaeConfig,
    Mask,
    MaskedAutoencoder,
    keep_visible,
    refuse_b0,
)
from dmri_fm.models.patches import patchify, unpatchify
from dmri_fm.models.template_patches import template_tissue
from dmri_fm.models.weights import Weights

__all__ = [
    "SMALL_MAE",
    "Autoencoder",
    "GuidedAutoencoder",
    "GuidedConfig",
    "Reconstruction",
    "SiblingTokens",
    "Window",
    "restore_autoencoder",
    "split_autoencoder",
]

#: Side of the cube whose share of brain tells how near the border is, voxels.
BORDER_VOXELS = 5

#: Widths by which an estimate of hidden directions, and the difference of the second one from it,
#: are smoothed; and by which what visible voxels miss is carried into hidden places; voxels.
SMOOTHING_VOXELS, OTHER_VOXELS = (0.7, 1.5), (1.0, 2.0)
FILLING_VOXELS = (1.0, 1.7, 3.0, 5.0, 8.0)

#: How much of each of the alternatives is taken before anything is learnt.
START = (0.55, -0.15, 0.0, 0.6, -0.25, 0.7, 0.2, 0.2, 0.0, 0.0)

#: Visible directions below which hidden ones are left to the Gaussian process: the convolutions
#: have been seen to spoil what so few predict.
FEWEST_TO_REFINE = 6

#: Added to, or least, share of a Gaussian on known voxels.
LEAST_SHARE = 0.02

#: Difference of the logarithms of two b-values below which they are taken as one shell.
SAME_SHELL = 0.15

#: Share of the features' running mean and variance that a step keeps; the least variance.
MEMORY, LEAST_VARIANCE = 0.98, 1e-4

#: Of the first readout, over the mean square of a token's channel.
READOUT_RIDGE = 1e-3

#: Images that the convolutions see, beside the border: estimate with the tokens' correction, first
#: and second estimate, mean of the visible directions, what is hidden, brain, tissue (2).
_N_IMAGES = 8


@dataclass(frozen=True)
class GuidedConfig(MaeConfig):
    """Also says how wide the convolutions are, and how many numbers describe a scan's tissue.

    Attributes
    ----------
    refiner_channels
        Of the two hidden layers.
    n_summary
        Length of :func:`dmri_fm.simulate.batch.tissue_summary`.
    """

    refiner_channels: int = 16
    n_summary: int = 8


#: Pretraining of the small encoder.
SMALL_MAE = GuidedConfig(SMALL, decoder_dim=192, decoder_depth=2)


class Window(NamedTuple):
    """Where the convolutions run: some directions, and a box of patches.

    `directions` (N,) indices; `low`, `high` first cell of the box and the one after the last.
    """

    directions: list[int]
    low: tuple[int, int, int]
    high: tuple[int, int, int]


class Reconstruction(NamedTuple):
    """What the autoencoder gives back.

    Attributes
    ----------
    patches
        Shape (B, T, S, P), S/S0.
    estimate
        Shape (B, T, S, P): the plain estimate of what is hidden.
    summary
        Shape (B, n_summary), standardised: what the features say of the tissue.
    siblings, sibling_summary
        Features (K, Q, D) of scans that were given beside this one, and what they say of their
        tissue, (K, Q, n_summary); or None.
    """

    patches: Tensor
    estimate: Tensor
    summary: Tensor
    siblings: Tensor | None = None
    sibling_summary: Tensor | None = None


class SiblingTokens(NamedTuple):
    """K scans of one head that differ in their tissue, by Q protocols of T directions each.

    `patches` (K, Q, T, S, P), `qspace` (Q, T, 3), `positions` (S, 3).
    """

    patches: Tensor
    qspace: Tensor
    positions: Tensor


class Refiner(nn.Module):
    """Three convolutions, modulated by tokens, that weigh what neighbours and estimates add."""

    def __init__(self, channels: int, token_dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.first = conv3d(_N_IMAGES + 1, channels, 3)
        self.second = conv3d(channels, channels, 3, dilation=2)
        self.last = conv3d(channels, 1 + len(START), 3)
        self.modulation = nn.Linear(token_dim, 4 * channels)
        for layer in (self.last, self.modulation):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias[1:] = torch.tensor(START)

    def forward(self, images: Tensor, tokens: Tensor, changes: Tensor) -> Tensor:
        """Return corrections (N, 1, X, Y, Z), in deviations of the signal.

        Parameters
        ----------
        images
            Shape (N, 9, X, Y, Z).
        tokens
            Shape (N, h, w, z, dim), of the patches that the images are made of.
        changes
            Shape (N, 10, X, Y, Z): what each alternative would change; they are weighed voxel by
            voxel, and one more change is free.
        """
        parts = rearrange(self.modulation(tokens), "n h w z (k c) -> k n c h w z", k=4)
        for axis, size in enumerate(self.patch):
            parts = parts.repeat_interleave(size, dim=3 + axis)
        scale, shift, scale_2, shift_2 = parts
        x = functional.gelu(self.first(images) * (1.0 + scale) + shift)
        x = functional.gelu(self.second(x) * (1.0 + scale_2) + shift_2)
        weights: Tensor = self.last(x)
        out: Tensor = weights[:, :1] + (weights[:, 1:] * changes).sum(dim=1, keepdim=True)
        return out


def alternatives(images: Tensor, *, is_whole: Tensor) -> Tensor:
    """Return what alternatives to an estimate would change, (N, 10, X, Y, Z).

    Five for directions that are hidden everywhere: the estimate smoothed, twice, and the second
    estimate, as it is and its difference smoothed, twice. Five for hidden places: what the
    regression misses in the visible voxels around, by normalised convolutions (Knutsson & Westin
    1993, doi:10.1109/CVPR.1993.341081).

    Parameters
    ----------
    images
        Shape (N, 9, X, Y, Z): see :data:`_N_IMAGES`; standardised.
    is_whole
        Shape (N,), bool: whether the direction is hidden everywhere.
    """
    _, first, second, _, flags, brain = images[:, :6].unsqueeze(2).unbind(dim=1)

    def smooth(image: Tensor, width: float) -> Tensor:
        return _blur(image * brain, width) / _blur(brain, width).clamp(min=LEAST_SHARE)

    visible = brain * (1.0 - flags)
    other, missing = second - first, (first - second) * visible
    for_directions = [
        *(smooth(first, width) - first for width in SMOOTHING_VOXELS),
        other,
        *(smooth(other, width) for width in OTHER_VOXELS),
    ]
    for_places = [
        _blur(missing, width) / (_blur(visible, width) + LEAST_SHARE) for width in FILLING_VOXELS
    ]
    which = is_whole[:, None, None, None, None]
    parts = [c * which for c in for_directions] + [c * ~which for c in for_places]
    return torch.cat(parts, dim=1) * brain


def _blur(images: Tensor, width: float) -> Tensor:
    """Convolve (N, 1, X, Y, Z) with a Gaussian of so many voxels, zero beyond the border."""
    reach = max(1, round(2.5 * width))
    x = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (x / width).square())
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(x), reach
        images = functional.conv3d(images, kernel.reshape(shape), padding=padding)
    return images


class GuidedAutoencoder(nn.Module):
    """The encoder, and what pretrains it."""

    tissue: Tensor
    feature_mean: Tensor
    feature_variance: Tensor

    def __init__(self, config: GuidedConfig) -> None:
        super().__init__()
        self.config = config
        encoder, dim = config.encoder, config.decoder_dim
        n_voxels = encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
        self.encoder = Drope(encoder)
        self.decoder = Decoder(config)
        self.decoder_pred = nn.Linear(dim, n_voxels)
        self.hint = nn.Linear(n_voxels, dim)
        self.correction = nn.Linear(dim, n_voxels)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        self.refiner = Refiner(config.refiner_channels, dim, encoder.patch)
        self.summary_head = nn.Linear(encoder.n_features, config.n_summary)
        self.register_buffer("feature_mean", torch.zeros(encoder.n_features))
        self.register_buffer("feature_variance", torch.ones(encoder.n_features))
        self.register_buffer("tissue", template_tissue(config.encoder), persistent=False)

    def forward(
        self,
        patches: Tensor,
        qspace: Tensor,
        positions: Tensor,
        mask: Mask,
        brain: Tensor,
        *,
        window: Window | None = None,
        siblings: SiblingTokens | None = None,
    ) -> Reconstruction:
        """Reconstruct all patches of one scan from the visible ones.

        Parameters
        ----------
        patches, qspace, positions
            As :meth:`dmri_fm.models.drope.Drope.forward` takes them, of one scan (B = 1), nothing
            hidden yet.
        mask
            What the encoder sees.
        brain
            Shape (1, S, P): 1 in the brain, 0 outside; known everywhere.
        window
            Where the convolutions run; everywhere if None.
        siblings
            Scans whose features are wanted, too.

        Raises
        ------
        GradientError
            If a vector is missing or a volume is b=0.
        """
        encoder = self.config.encoder
        features, tokens, first, second = self.decode(patches, qspace, positions, mask, brain)
        hidden = mask.hidden(qspace.shape[1], positions.shape[1])
        found = torch.where(
            hidden[..., None],
            first + encoder.signal_std * self.correction(tokens),
            encoder.signal_mean + encoder.signal_std * self.decoder_pred(tokens),
        )[0]
        cells, flags = self._cells(positions[0]), hidden[0]
        # Directions with anything visible; if places are hidden, none is without.
        told = first[~flags.all(dim=1)]
        parts = _Parts(cells, brain[0], flags, tokens[0], first, second, told.mean(dim=0))
        if window is None:
            window = _everywhere(flags, cells)
        if self.training or mask.kind == "spatial" or mask.kept.shape[1] >= FEWEST_TO_REFINE:
            found = self._refine(found, parts, window)
        result = Reconstruction(found[None], first[None], self._summarise(features))
        if siblings is None:
            return result
        others = self._encode_siblings(siblings)
        return result._replace(siblings=others, sibling_summary=self._summarise(others))

    def decode(
        self, patches: Tensor, qspace: Tensor, positions: Tensor, mask: Mask, brain: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return features (1, D), the decoder's tokens (1, T, S, dim), two estimates (T, S, P).

        Parameters as of :meth:`forward`.
        """
        refuse_b0(qspace)
        encoder = self.config.encoder
        features, seen = self.encoder(*keep_visible(patches, qspace, positions, mask))
        with torch.no_grad():
            first, second = self._estimate(patches[0], qspace[0], positions[0], mask, brain[0])
        hints = self.hint((first[None] - encoder.signal_mean) / encoder.signal_std)
        tokens = self.decoder(features, seen, mask, qspace, positions, hints)
        return features, tokens, first, second

    @torch.no_grad()
    def start_readout(self, tokens: Tensor, patches: Tensor) -> None:
        """Set the readout of visible patches to its best linear one.

        Parameters
        ----------
        tokens
            Shape (N, dim), of visible patches, as :meth:`decode` makes them.
        patches
            Shape (N, P), S/S0: what they should give back.
        """
        config = self.config.encoder
        wanted = (patches - config.signal_mean) / config.signal_std
        rows = torch.cat([tokens, torch.ones_like(tokens[:, :1])], dim=1).double()
        normal = rows.T @ rows
        ridge = READOUT_RIDGE * normal.diagonal().mean() * torch.eye(len(normal)).to(normal)
        solution = torch.linalg.solve(normal + ridge, rows.T @ wanted.double()).float()
        self.decoder_pred.weight.copy_(solution[:-1].T)
        self.decoder_pred.bias.copy_(solution[-1])

    def _summarise(self, features: Tensor) -> Tensor:
        """Predict the tissue's summary from features (..., D), centred by their running mean."""
        if self.training:
            with torch.no_grad():
                away = features.detach().flatten(0, -2) - self.feature_mean
                self.feature_mean += (1.0 - MEMORY) * away.mean(dim=0)
                self.feature_variance *= MEMORY
                self.feature_variance += (1.0 - MEMORY) * away.square().mean(dim=0)
        scale = (self.feature_variance + LEAST_VARIANCE).sqrt()
        out: Tensor = self.summary_head((features - self.feature_mean) / scale)
        return out

    def _encode_siblings(self, siblings: SiblingTokens) -> Tensor:
        n, n_protocols = siblings.patches.shape[:2]
        features: Tensor = self.encoder.encode_cls(
            siblings.patches.flatten(0, 1),
            siblings.qspace.repeat(n, 1, 1),
            siblings.positions.expand(n * n_protocols, -1, -1),
        )
        out: Tensor = features.unflatten(0, (n, n_protocols))
        return out

    def reconstruct(
        self, patches: Tensor, qspace: Tensor, positions: Tensor, mask: Mask, brain: Tensor
    ) -> Tensor:
        """Return the reconstruction (1, T, S, P) alone; parameters as of :meth:`forward`."""
        found: Reconstruction = self(patches, qspace, positions, mask, brain)
        return found.patches

    def _cells(self, positions: Tensor) -> Tensor:
        """Return which cell of the grid of patches each place is, (S, 3)."""
        patch = torch.tensor(self.config.encoder.patch, device=positions.device)
        cells: Tensor = ((positions - (patch - 1) / 2) / patch).round().long()
        return cells

    def _tissue_at(self, cells: Tensor) -> Tensor:
        """Return the template's tissue in patches, (S, P, 2)."""
        _, h, z = self.config.encoder.patch_grid
        return self.tissue[(cells[:, 0] * h + cells[:, 1]) * z + cells[:, 2]]

    def _estimate(
        self, patches: Tensor, qspace: Tensor, positions: Tensor, mask: Mask, brain: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return two estimates (T, S, P), the first with the measurements where they are visible.

        Where places are hidden, the second is that of visible places, too, from the others.
        """
        kept = mask.kept[0]
        first = patches.clone()
        if mask.kind == "diffusion":
            rest = _others(kept, len(qspace))
            args = (patches[kept], brain, qspace[kept], qspace[rest])
            second = patches.clone()
            second[rest] = predict_by_tensor(*args)
            # A shell of which nothing is visible has no mean that the process could know.
            apart = (qspace[rest, None, 0] / qspace[kept, 0]).log().abs().amin(dim=1)
            known = (apart < SAME_SHELL)[:, None, None]
            first[rest] = torch.where(known, predict_by_process(*args), second[rest])
            return first, second
        rest = _others(kept, len(positions))
        cells = self._cells(positions)
        wm, gm = self._tissue_at(cells).unbind(-1)
        border = self._border(brain, cells)
        ones = torch.ones_like(wm)
        regressors = torch.stack([ones, wm, gm, wm * wm, border, border * border], dim=2)
        second = fill_places(
            patches[:, kept],
            regressors * brain[..., None],
            positions * self.config.encoder.voxel_size_mm,
            kept,
        )
        first[:, rest] = second[:, rest]
        return first, second

    def _border(self, brain: Tensor, cells: Tensor) -> Tensor:
        """Return the share of brain around each voxel, (S, P)."""
        patch, low = self.config.encoder.patch, cells.amin(dim=0)
        size = (cells.amax(dim=0) + 1 - low).tolist()
        volume = _to_box(brain[None, ..., None], cells - low, size, patch)
        share = functional.avg_pool3d(volume, BORDER_VOXELS, stride=1, padding=BORDER_VOXELS // 2)
        return _from_box(share, cells - low, patch)[0, ..., 0]

    def _refine(self, found: Tensor, parts: _Parts, window: Window) -> Tensor:
        """Add the convolutions' corrections to hidden patches (T, S, P) within a window."""
        config = self.config.encoder
        low, high = (torch.tensor(c, device=found.device) for c in (window.low, window.high))
        inside = ((parts.cells >= low) & (parts.cells < high)).all(dim=1).nonzero()[:, 0]
        if not inside.numel() or not window.directions:
            return found
        cells, brain = parts.cells[inside], parts.brain[inside]
        tissue = self._tissue_at(cells) * brain[..., None]
        fixed = torch.stack([self._border(brain, cells), *tissue.unbind(-1)], dim=-1)
        average = parts.average[inside]
        out = found.clone()
        # Without gradients one direction after the other: whole heads are large.
        step = len(window.directions) if torch.is_grad_enabled() else 1
        for start in range(0, len(window.directions), step):
            which = torch.tensor(window.directions[start : start + step], device=found.device)
            pick = (which[:, None], inside[None])
            flags = parts.hidden[pick][..., None].to(found.dtype)
            shown = torch.where(flags > 0, found[pick], parts.first[pick])
            signals = (shown, parts.first[pick], parts.second[pick], average.expand_as(shown))
            images = torch.stack(
                [(s - config.signal_mean) / config.signal_std * brain for s in signals]
                + [flags * brain, brain.expand_as(shown)],
                dim=-1,
            )
            images = torch.cat([images, fixed.expand(len(which), -1, -1, -1)], dim=-1)
            grid = found.new_zeros(len(which), *(high - low).tolist(), parts.tokens.shape[-1])
            a, b, c = (cells - low).unbind(1)
            grid[:, a, b, c] = parts.tokens[pick]
            box = _to_box(images, cells - low, (high - low).tolist(), config.patch)
            with torch.no_grad():
                whole = parts.hidden[which].all(dim=1)
                changes = alternatives(box.detach(), is_whole=whole)
            change = self.refiner(box, grid, changes)
            change = _from_box(change, cells - low, config.patch)[..., 0]
            out[pick] = found[pick] + config.signal_std * change * flags
        return out


class _Parts(NamedTuple):
    """What the convolutions see of a scan of S places and T directions.

    `cells` (S, 3), `brain` (S, P), `hidden` (T, S), `tokens` (T, S, dim), both estimates (T, S, P)
    and their mean, or that of the visible directions, (S, P).
    """

    cells: Tensor
    brain: Tensor
    hidden: Tensor
    tokens: Tensor
    first: Tensor
    second: Tensor
    average: Tensor


def _to_box(values: Tensor, cells: Tensor, size: list[int], patch: tuple[int, int, int]) -> Tensor:
    """Lay patches (N, S, P, C) into a box of cells: (N, C, X, Y, Z), zero where there is none."""
    h, w, z = size
    full = values.new_zeros(len(values), h * w * z, *values.shape[2:])
    full[:, (cells[:, 0] * w + cells[:, 1]) * z + cells[:, 2]] = values
    return unpatchify(rearrange(full, "n s p c -> n c s p"), patch, (h, w, z))


def _from_box(box: Tensor, cells: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Take patches (N, S, P, C) out of a box (N, C, X, Y, Z); inverse of :func:`_to_box`."""
    w, z = box.shape[3] // patch[1], box.shape[4] // patch[2]
    full = rearrange(patchify(box, patch), "n c s p -> n s p c")
    return full[:, (cells[:, 0] * w + cells[:, 1]) * z + cells[:, 2]]


def _others(kept: Tensor, n: int) -> Tensor:
    """Return the indices below n that are not kept."""
    flags = torch.ones(n, dtype=torch.bool, device=kept.device)
    flags[kept] = False
    return flags.nonzero()[:, 0]


def _everywhere(hidden: Tensor, cells: Tensor) -> Window:
    directions = hidden.any(dim=1).nonzero()[:, 0].tolist()
    low, high = cells.amin(dim=0).tolist(), (cells.amax(dim=0) + 1).tolist()
    return Window(directions, (low[0], low[1], low[2]), (high[0], high[1], high[2]))


def split_autoencoder(network: GuidedAutoencoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of all but the encoder, and the configuration of all but the encoder."""
    rest = {k: v for k, v in network.state_dict().items() if not k.startswith("encoder.")}
    config = {k: v for k, v in asdict(network.config).items() if k != "encoder"}
    return rest, config


def restore_autoencoder(loaded: Weights) -> GuidedAutoencoder:
    """Put an encoder and what pretrained it together again.

    Raises
    ------
    WeightsError
        If it did not come with the weights, or does not fit them.
    """
    if not loaded.pretraining:
        raise WeightsError(
            f"weights {loaded.version} of {loaded.name!r} hold the encoder alone",
            expected="weights that `dmri-fm pretrain drope` has written",
        )
    assert isinstance(loaded.model, Drope)
    try:
        config = GuidedConfig(encoder=loaded.model.config, **loaded.pretraining_config)
        network = GuidedAutoencoder(config)
        encoder = {f"encoder.{k}": v for k, v in loaded.model.state_dict().items()}
        network.load_state_dict(encoder | loaded.pretraining, strict=True)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(
            f"the decoder does not fit its configuration ({error})",
            expected="the weights that were written together",
        ) from None
    device = next(loaded.model.parameters()).device
    return network.eval().requires_grad_(False).to(device)


#: Either kind of autoencoder; both have `encoder`, `config` and `reconstruct`.
Autoencoder = MaskedAutoencoder | GuidedAutoencoder
