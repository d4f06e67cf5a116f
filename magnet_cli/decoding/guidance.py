"""Classifier-free guidance and its annealing (paper, section 3.4 and equation 10)."""

from __future__ import annotations

from torch import Tensor

# The annealed coefficient ends at 1 up to rounding, where guidance changes nothing.
NO_GUIDANCE = 1e-6


def annealed_coef(mask_rate: float, max_coef: float, min_coef: float) -> float:
    """λ = rate * max + (1 - rate) * min: strong while most is masked, weak at the end."""
    return mask_rate * max_coef + (1 - mask_rate) * min_coef


def guidance_matters(coef: float) -> bool:
    """Whether the unconditional half is needed at all."""
    return abs(coef - 1.0) >= NO_GUIDANCE


def coherent(guided: Tensor, cond: Tensor, short: Tensor | None, boost: float) -> Tensor:
    """guided + (cond - short) * boost: towards what only the whole context says.

    Coherence boosting (Malkin, Wang and Jojic, 2022, arXiv 2110.08294): what a model of a short context
    would say as well counts for less than what it takes the long one to know, such as that the beat goes
    on. Over guided logits, where the paper has plain ones.
    """
    return guided if short is None else guided + (cond - short) * boost


def guide(cond: Tensor, null: Tensor | None, coef: float) -> Tensor:
    """null + (cond - null) * λ; `cond` alone where there is nothing to guide against."""
    return cond if null is None else null + (cond - null) * coef
