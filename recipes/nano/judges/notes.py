"""The note judge: basic-pitch (Bittner et al., 2022, arXiv 2203.09893; Apache-2.0) through onnxruntime.

For each of 88 piano keys and 86 frames a second, the network predicts the probability that a note sounds and
that it starts. Notes are read off in a simple way, the same for all sounds that are compared.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 22_050
HOP = 256
WINDOW = 2 * SAMPLE_RATE - HOP  # samples that the network reads at once
OVERLAP_FRAMES = 30
LOWEST_PITCH = 21  # MIDI, of the first of 88 keys
ONSET_THRESHOLD = 0.5  # basic-pitch's own
NOTE_THRESHOLD = 0.3
MIN_FRAMES = 5  # 58 ms
# A window's frames span a little less than its samples: the network's own rounding.
_FRAMES = 172
_FRAME_SECONDS = WINDOW / SAMPLE_RATE / _FRAMES


class NoteListener:
    """Sound -> notes, as (onset in seconds, MIDI pitch)."""

    def __init__(self, wheel: Path) -> None:
        import onnxruntime  # in recipes/nano/requirements.txt; only needed with the wheel

        member = "basic_pitch/saved_models/icassp_2022/nmp.onnx"
        with zipfile.ZipFile(wheel) as archive:
            network = archive.read(member)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            network, options, providers=["CPUExecutionProvider"]
        )

    def notes(self, audio: npt.NDArray[np.float32]) -> list[tuple[float, int]]:
        """Notes of audio [samples] at 22,050 Hz, in the order of their onsets."""
        sounding, begins = self._activations(audio)
        begins = np.maximum(begins, _rises(sounding, float(begins.max(initial=0))))
        padded = np.pad(begins, ((1, 1), (0, 0)))
        peak = (begins > padded[:-2]) & (begins >= padded[2:]) & (begins >= ONSET_THRESHOLD)
        found = []
        for frame, key in zip(*np.nonzero(peak), strict=True):
            held = sounding[frame : frame + MIN_FRAMES + 1, key]
            if len(held) > MIN_FRAMES and held.mean() >= NOTE_THRESHOLD:
                found.append((float(frame) * _FRAME_SECONDS, int(key) + LOWEST_PITCH))
        return sorted(found)

    def _activations(
        self, audio: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Two arrays [frames, 88]: a note sounds, a note begins."""
        edge = OVERLAP_FRAMES // 2
        step = WINDOW - OVERLAP_FRAMES * HOP
        padded = np.pad(audio, (edge * HOP, WINDOW))
        parts: tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]] = ([], [])
        for start in range(0, len(audio), step):
            window = padded[start : start + WINDOW].reshape(1, -1, 1).astype(np.float32)
            names = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]
            out = self.session.run(names, {"serving_default_input_2:0": window})
            for part, activation in zip(parts, out, strict=True):
                part.append(activation[0, edge:-edge])
        frames = round(len(audio) / SAMPLE_RATE / _FRAME_SECONDS)
        sounding, begins = (np.concatenate(part)[:frames] for part in parts)
        return sounding, begins


def _rises(sounding: npt.NDArray[np.float32], loudest: float) -> npt.NDArray[np.float32]:
    """Sudden rises of a key's activation over two frames, scaled to the surest onset."""
    back = [np.pad(sounding, ((lag, 0), (0, 0)))[: len(sounding)] for lag in (1, 2)]
    rise = np.clip(sounding - np.maximum(back[0], back[1]), 0, None)
    top = float(rise.max(initial=0))
    return rise * (loudest / top) if top > 0 else rise
