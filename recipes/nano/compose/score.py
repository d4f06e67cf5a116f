"""The score: notes, drum hits and the parts that play them.

All onsets are on a grid of 20 ms, one frame of a 50 Hz codec: equal musical events then have equal frame
phases, and a language model over the frames meets each event in only one form.
"""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 32_000
FRAME_SECONDS = 0.02
CLIP_SECONDS = 10.24
CLIP_SAMPLES = round(CLIP_SECONDS * SAMPLE_RATE)


@dataclass(frozen=True)
class Note:
    """One pitched note: times in seconds, `pitch` and `velocity` as in MIDI, `part` an index."""

    start: float
    end: float
    pitch: int
    velocity: int
    part: int = 0


@dataclass(frozen=True)
class Hit:
    """One drum stroke of the score's kit; `gain` is linear."""

    start: float
    sound: str
    gain: float = 1.0


@dataclass(frozen=True)
class Part:
    """An instrument in the arrangement, `gain_db` relative to the lead."""

    instrument: str
    gain_db: float = 0.0


@dataclass(frozen=True)
class Score:
    """A clip of music: everything between time 0 and `CLIP_SECONDS`."""

    parts: tuple[Part, ...] = ()
    notes: tuple[Note, ...] = ()
    hits: tuple[Hit, ...] = ()
    kit: str | None = None
    kit_variant: int = 0  # which set of samples; taken modulo the number the kit has
    reverb: int = 30  # MIDI controller 91, 0..127
    lowpass_hz: float | None = None  # the muffled sound of a tape, over the whole mix
    hiss: bool = False

    def as_json(self) -> dict[str, object]:
        """The note list for a note-accuracy judge: seconds, MIDI pitches, instrument names."""
        return {
            "duration": CLIP_SECONDS,
            "notes": [
                [round(n.start, 3), round(n.end, 3), n.pitch, self.parts[n.part].instrument]
                for n in self.notes
            ],
            "hits": [[round(h.start, 3), h.sound] for h in self.hits],
            "kit": self.kit,
            "kit_variant": self.kit_variant,
        }


def snap(seconds: float) -> float:
    """The nearest grid time."""
    return round(seconds / FRAME_SECONDS) * FRAME_SECONDS
