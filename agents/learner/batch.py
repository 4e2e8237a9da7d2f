"""Trajectories as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Token sequences to learn from, padded on the right. Column t belongs to the token in column t.

    Attributes:
        ids: [B, T] int64.
        lengths: [B] int64, tokens of each sequence.
        action_mask: [B, T] float32, 1 on the tokens to learn from.
        old_logprobs: [B, T] float32, of the policy that sampled, at the sampling temperature.
        advantages: [B, T] float32.
        ref_logprobs: [B, T] float32, of the frozen reference; zeros until the learner has filled them in.
    """

    ids: Tensor
    lengths: Tensor
    action_mask: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    ref_logprobs: Tensor

    @classmethod
    def pack(
        cls,
        ids: Sequence[Sequence[int]],
        action_mask: Sequence[Sequence[int]],
        old_logprobs: Sequence[Sequence[float]],
        advantages: Tensor,
        pad_id: int,
    ) -> Batch:
        """Pad B sequences. `advantages` is [B], the same for all tokens of a sequence, or [B, T].

        Raises:
            ValueError: for no sequence at all, or if the lists disagree in length.
        """
        if not ids:
            raise ValueError("a batch needs at least one sequence")
        lengths = torch.tensor([len(row) for row in ids])
        width = int(lengths.max())

        def padded(rows: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> Tensor:
            out = torch.full((len(rows), width), fill, dtype=dtype)
            for i, row in enumerate(rows):
                if len(row) != lengths[i]:
                    raise ValueError(f"sequence {i} has {lengths[i]} tokens, but {len(row)} entries beside them")
                out[i, : len(row)] = torch.tensor(row, dtype=dtype)
            return out

        mask = padded(action_mask, 0.0, torch.float32)
        mask[:, 0] = 0.0  # nothing precedes the first token, so nothing predicts it
        advantages = advantages.float()
        return cls(
            ids=padded(ids, pad_id, torch.long),
            lengths=lengths,
            action_mask=mask,
            old_logprobs=padded(old_logprobs, 0.0, torch.float32),
            advantages=(advantages.unsqueeze(1) if advantages.dim() == 1 else advantages) * mask,
            ref_logprobs=torch.zeros_like(mask),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.lengths.sum())

    def select(self, rows: Tensor) -> Batch:
        """The sequences `rows`, without the columns that only padding is left in."""
        width = int(self.lengths[rows].max())
        parts = {f.name: getattr(self, f.name)[rows] for f in fields(self)}
        return replace(self, **{name: part[:, :width] if part.dim() == 2 else part for name, part in parts.items()})

    def to(self, device: torch.device) -> Batch:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def micro_batches(self, max_tokens: int) -> Iterator[Tensor]:
        """Row indices of parts with at most `max_tokens` tokens, padding counted, or one sequence; like lengths together."""
        order = torch.argsort(self.lengths, stable=True)
        part: list[int] = []
        for row in order.tolist():
            if part and (len(part) + 1) * int(self.lengths[row]) > max_tokens:
                yield torch.tensor(part)
                part = []
            part.append(row)
        yield torch.tensor(part)

    @property
    def first_action(self) -> int:
        """The first column that holds an action token of any sequence."""
        columns = self.action_mask.any(dim=0).nonzero()
        return int(columns[0]) if len(columns) else self.ids.shape[1]
