"""Measures of a codec against known values."""

from __future__ import annotations

import math

import pytest
import torch

from recipes.nano.judges.measures import (
    modulation_depth,
    note_scores,
    rank_agreement,
    spectral_distance,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_spectral_distance_is_zero_for_equal_sounds_and_grows_with_noise() -> None:
    sound = 0.1 * noise(8000)
    assert spectral_distance(sound, sound) == 0
    near = spectral_distance(sound, sound + 0.01 * noise(8000, seed=1))
    far = spectral_distance(sound, sound + 0.1 * noise(8000, seed=1))
    assert 0 < near < far


def test_spectral_distance_of_a_gain_is_the_gain_in_nepers() -> None:
    sound = 10 * noise(20_000)  # loud, so that the floor does not show
    assert spectral_distance(sound, sound * math.e) == pytest.approx(1, abs=0.01)


def test_spectral_distance_does_not_hear_phase() -> None:
    time = torch.arange(16_000) / 16_000
    tones = [torch.sin(2 * math.pi * 440 * time + phase) for phase in (0.0, 1.5)]
    other = torch.sin(2 * math.pi * 466 * time)  # a semitone up
    assert spectral_distance(*tones) < 0.5 * spectral_distance(tones[0], other)


def test_spectral_distance_refuses_different_lengths() -> None:
    with pytest.raises(ValueError, match="sounds must be"):
        spectral_distance(noise(4000), noise(4001))


def test_rank_agreement_counts_first_choices_among_the_first() -> None:
    reference = torch.tensor([[0.9, 0.1, 0.0, 0.2], [0.1, 0.8, 0.3, 0.2]])
    other = torch.tensor([[0.5, 0.4, 0.0, 0.1], [0.9, 0.3, 0.5, 0.1]])
    assert rank_agreement(reference, other) == 0.5
    assert rank_agreement(reference, other, among=2) == 0.5
    assert rank_agreement(reference, other, among=3) == 1.0
    with pytest.raises(ValueError, match="scores must be"):
        rank_agreement(reference, other[:1])


def test_note_scores_match_each_note_once_by_pitch_and_onset() -> None:
    played = [(0.0, 60), (1.0, 60), (1.0, 64)]
    assert note_scores(played, played) == (1.0, 1.0)
    heard = [(0.02, 60), (0.03, 60), (1.04, 64), (1.0, 65)]  # one twice, one not played
    assert note_scores(played, heard) == (0.5, pytest.approx(2 / 3))
    assert note_scores(played, [(1.2, 64)]) == (0.0, 0.0)
    assert note_scores([], []) == (1.0, 1.0)


def test_modulation_depth_finds_a_buzz_at_its_frequency_only() -> None:
    time = torch.arange(48_000) / 24_000
    steady = torch.sin(2 * math.pi * 440 * time)
    buzzing = steady * (1 + 0.3 * torch.sin(2 * math.pi * 25 * time)).sqrt()
    assert modulation_depth(steady, 24_000, 25) < 0.01
    assert modulation_depth(buzzing, 24_000, 25) == pytest.approx(0.3, abs=0.02)
    assert modulation_depth(buzzing, 24_000, 50) < 0.02
