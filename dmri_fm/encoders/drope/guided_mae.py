"""Masked autoencoder that corrects plain estimates of what is hidden.

Hidden directions start from stacked predictions, hidden places from a regression on the
template's tissue (:mod:`dmri_fm.encoders.drope.estimates`); the decoder's tokens and three
convolutions, which the tokens modulate, add what these miss. Visible patches have no such start:
all that is given back of them went through the encoder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.encoders.drope.estimates import (
    FEWEST_TO_STACK,
    fill_places,
    predict_by_tensor,
    predict_directions,
)
from dmri_fm.encoders.drope.guided_refiner import (
    SMOOTHING_VOXELS,
    GuidedRefiner,
    blur_within,
    find_alternatives,
)
from dmri_fm.encoders.drope.mae import (
    Decoder,
    MaeConfig,
    Mask,
    MaskedAutoencoder,
    keep_visible,
    refuse_b0,
)
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.patches import lay_in_box, take_from_box
from dmri_fm.errors import WeightsError
from dmri_fm.weights import Pretraining, Weights

#: Side of the cube whose share of brain tells how near the border is, voxels.
BORDER_VOXELS = 5

#: Of the first readout, over the mean square of a token's channel.
READOUT_RIDGE = 1e-3


@dataclass(frozen=True)
class GuidedConfig(MaeConfig):
    """Also says how many channels the convolutions' two hidden layers have."""

    refiner_channels: int = 16


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
    """

    patches: Tensor
    estimate: Tensor


class GuidedAutoencoder(nn.Module):
    """The encoder, and what pretrains it."""

    tissue: Tensor

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
        self.refiner = GuidedRefiner(config.refiner_channels, dim, encoder.patch)
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
    ) -> Reconstruction:
        """Reconstruct all patches of one scan from the visible ones.

        Parameters
        ----------
        patches, qspace, positions
            As :meth:`dmri_fm.encoders.drope.network.Drope.forward` takes them, of one scan (B =
            1), nothing
            hidden yet.
        mask
            What the encoder sees.
        brain
            Shape (1, S, P): 1 in the brain, 0 outside; known everywhere.
        window
            Where the convolutions run; everywhere if None.

        Raises
        ------
        GradientError
            If a vector is missing or a volume is b=0.
        """
        encoder = self.config.encoder
        tokens, first, second = self.decode(patches, qspace, positions, mask, brain)
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
        if self.training or mask.kind == "spatial" or mask.kept.shape[1] >= FEWEST_TO_STACK:
            found = self._refine(found, parts, window)
        return Reconstruction(found[None], first[None])

    def decode(
        self, patches: Tensor, qspace: Tensor, positions: Tensor, mask: Mask, brain: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoder's tokens (1, T, S, dim) and two estimates (T, S, P).

        Parameters as of :meth:`forward`.
        """
        refuse_b0(qspace)
        encoder = self.config.encoder
        features, seen = self.encoder(*keep_visible(patches, qspace, positions, mask))
        with torch.no_grad(), torch.autocast(patches.device.type, enabled=False):
            first, second = self._estimate(patches[0], qspace[0], positions[0], mask, brain[0])
        hints = self.hint((first[None] - encoder.signal_mean) / encoder.signal_std)
        tokens = self.decoder(features, seen, mask, qspace, positions, hints)
        return tokens, first, second

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
            images = self._smooth(patches[kept], brain, positions)
            first[rest] = predict_directions(images, *args[1:])
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

    def _smooth(self, patches: Tensor, brain: Tensor, positions: Tensor) -> list[Tensor]:
        """Return patches (K, S, P) as they are, and smoothed within the brain by two widths."""
        patch, cells = self.config.encoder.patch, self._cells(positions)
        cells = cells - cells.amin(dim=0)
        size = (cells.amax(dim=0) + 1).tolist()
        inside = lay_in_box(brain[None, ..., None], cells, size, patch)
        images = lay_in_box(patches[..., None], cells, size, patch)
        found = [patches]
        for width in SMOOTHING_VOXELS:
            smooth = blur_within(images, inside, width) * inside
            found.append(take_from_box(smooth, cells, patch)[..., 0])
        return found

    def _border(self, brain: Tensor, cells: Tensor) -> Tensor:
        """Return the share of brain around each voxel, (S, P)."""
        patch, low = self.config.encoder.patch, cells.amin(dim=0)
        size = (cells.amax(dim=0) + 1 - low).tolist()
        volume = lay_in_box(brain[None, ..., None], cells - low, size, patch)
        share = functional.avg_pool3d(volume, BORDER_VOXELS, stride=1, padding=BORDER_VOXELS // 2)
        return take_from_box(share, cells - low, patch)[0, ..., 0]

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
            box = lay_in_box(images, cells - low, (high - low).tolist(), config.patch)
            with torch.no_grad():
                whole = parts.hidden[which].all(dim=1)
                changes = find_alternatives(box.detach(), is_whole=whole)
            change = self.refiner(box, grid, changes)
            change = take_from_box(change, cells - low, config.patch)[..., 0]
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


def _others(kept: Tensor, n: int) -> Tensor:
    """Return the indices below n that are not kept."""
    flags = torch.ones(n, dtype=torch.bool, device=kept.device)
    flags[kept] = False
    return flags.nonzero()[:, 0]


def _everywhere(hidden: Tensor, cells: Tensor) -> Window:
    directions = hidden.any(dim=1).nonzero()[:, 0].tolist()
    low, high = cells.amin(dim=0).tolist(), (cells.amax(dim=0) + 1).tolist()
    return Window(directions, (low[0], low[1], low[2]), (high[0], high[1], high[2]))


def split_autoencoder(network: GuidedAutoencoder) -> Pretraining:
    """Return tensors and configuration of all but the encoder."""
    rest = {k: v for k, v in network.state_dict().items() if not k.startswith("encoder.")}
    config = {k: v for k, v in asdict(network.config).items() if k != "encoder"}
    return Pretraining(rest, config)


def restore_autoencoder(loaded: Weights) -> GuidedAutoencoder:
    """Put an encoder and what pretrained it together again.

    Raises
    ------
    WeightsError
        If it did not come with the weights, or does not fit them.
    """
    if loaded.pretraining is None:
        raise WeightsError(
            f"weights {loaded.version} of {loaded.name!r} hold the encoder alone",
            expected="weights that `dmri-fm pretrain drope` has written",
        )
    assert isinstance(loaded.model, Drope)
    try:
        config = GuidedConfig(encoder=loaded.model.config, **loaded.pretraining.config)
        network = GuidedAutoencoder(config)
        encoder = {f"encoder.{k}": v for k, v in loaded.model.state_dict().items()}
        network.load_state_dict(encoder | loaded.pretraining.tensors, strict=True)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(
            f"the decoder does not fit its configuration ({error})",
            expected="the weights that were written together",
        ) from None
    device = next(loaded.model.parameters()).device
    return network.eval().requires_grad_(False).to(device)


#: Either kind of autoencoder; both have `encoder`, `config` and `reconstruct`.
Autoencoder = MaskedAutoencoder | GuidedAutoencoder
