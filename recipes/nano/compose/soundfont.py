"""Renders scores with FluidSynth: many clips per run, each in its own time slot.

FluidSynth loads its soundfont once per run (which takes seconds for a compressed one), so a batch of scores
becomes one long MIDI file. In the gap between two clips everything is silenced and reset, long enough for the
reverb to decay.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mido
import numpy as np
import soundfile

from recipes.nano.compose.instruments import INSTRUMENTS
from recipes.nano.compose.kits import SOUNDFONT_KITS, soundfont_kit
from recipes.nano.compose.noise import Array
from recipes.nano.compose.score import CLIP_SAMPLES, CLIP_SECONDS, SAMPLE_RATE, Score

SOUNDFONTS = {
    "fluid": Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    "musescore": Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
}
BLOCK = 64  # FluidSynth's rendering quantum: an event sounds one block after its time
LEAD_IN = 0.32  # seconds of silence before a slot's clip, where its programs are set
SLOT = 13.44  # seconds from one clip's beginning to the next one's
DRUM_CHANNEL = 9
FULL_VOLUME = 90  # of 127: room for 6 dB more
TICKS_PER_SECOND = 1000
_FLUIDSYNTH = (
    "fluidsynth", "-ni", "-q", "-r", str(SAMPLE_RATE), "-g", "0.5", "-T", "wav", "-O", "float",
    "-o", "synth.chorus.active=no", "-o", "synth.reverb.room-size=0.5",
    "-o", "synth.reverb.damp=0.4", "-o", "synth.reverb.level=0.5", "-o", "synth.reverb.width=0.5",
)  # fmt: skip


def render_notes(scores: Sequence[Score], soundfont: str) -> list[Array]:
    """The pitched notes and soundfont drums of each score: mono, `CLIP_SAMPLES` each, not normalized.

    Raises `RuntimeError` if FluidSynth fails and `FileNotFoundError` without it or the soundfont.
    """
    font = SOUNDFONTS[soundfont]
    if not font.exists():
        raise FileNotFoundError(
            f"{font} is missing: install the packages in recipes/nano/README.md"
        )
    with tempfile.TemporaryDirectory() as directory:
        midi_path = Path(directory, "batch.mid")
        wav_path = Path(directory, "batch.wav")
        batch_midi(scores).save(midi_path)
        command = (*_FLUIDSYNTH, "-F", str(wav_path), str(font), str(midi_path))
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode or not wav_path.exists():
            raise RuntimeError(f"fluidsynth failed ({run.returncode}): {run.stderr.strip()[-500:]}")
        clips = []
        with soundfile.SoundFile(wav_path) as wav:
            for index in range(len(scores)):
                wav.seek(min(wav.frames, round((LEAD_IN + index * SLOT) * SAMPLE_RATE) + BLOCK))
                clip = np.zeros(CLIP_SAMPLES)
                read = wav.read(CLIP_SAMPLES, always_2d=True).mean(axis=1)
                clip[: len(read)] = read
                clips.append(clip)
    return clips


def batch_midi(scores: Sequence[Score]) -> mido.MidiFile:
    """One MIDI file with every score in its slot; a tick is a millisecond."""
    events: list[tuple[float, int, mido.Message]] = []
    for index, score in enumerate(scores):
        events += _slot_events(score, LEAD_IN + index * SLOT)
    events.append((len(scores) * SLOT, 9, mido.Message("control_change", control=120)))
    events.sort(key=lambda event: event[:2])
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=1_000_000))
    now = 0
    for seconds, _, message in events:
        tick = round(seconds * TICKS_PER_SECOND)
        track.append(message.copy(time=tick - now))
        now = tick
    midi = mido.MidiFile(ticks_per_beat=TICKS_PER_SECOND)
    midi.tracks.append(track)
    return midi


def _slot_events(score: Score, start: float) -> list[tuple[float, int, mido.Message]]:
    """(seconds, order among equals, message): resets, programs, then releases before strikes."""
    events: list[tuple[float, int, mido.Message]] = []

    def control(when: float, order: int, channel: int, number: int, value: int) -> None:
        message = mido.Message("control_change", channel=channel, control=number, value=value)
        events.append((when, order, message))

    def program(channel: int, number: int) -> None:
        message = mido.Message("program_change", channel=channel, program=number)
        events.append((start - 0.2, 1, message))

    channels = list(range(len(score.parts)))
    for channel, part in enumerate(score.parts):
        instrument = INSTRUMENTS[part.instrument]
        program(channel, instrument.program)
        control(start - 0.2, 2, channel, 7, _volume(part.gain_db + instrument.gain_db))
    if score.kit is not None and score.kit in SOUNDFONT_KITS:
        kit = soundfont_kit(score.kit, score.kit_variant)
        channels.append(DRUM_CHANNEL)
        program(DRUM_CHANNEL, kit.program)
        control(start - 0.2, 2, DRUM_CHANNEL, 7, _volume(kit.gain_db))
        for hit in score.hits:
            key = kit.keys[hit.sound]
            strike = mido.Message(
                "note_on", channel=DRUM_CHANNEL, note=key, velocity=round(110 * hit.gain)
            )
            events.append((start + hit.start, 5, strike))
            release = mido.Message("note_off", channel=DRUM_CHANNEL, note=key)
            events.append((min(start + hit.start + 0.1, start + CLIP_SECONDS), 4, release))
    for channel in channels:
        control(start - 0.3, 0, channel, 121, 0)
        control(start - 0.2, 2, channel, 91, score.reverb)
        control(start - 0.2, 2, channel, 10, 64)
        control(start + CLIP_SECONDS + 0.05, 9, channel, 120, 0)
    for note in score.notes:
        on = mido.Message("note_on", channel=note.part, note=note.pitch, velocity=note.velocity)
        off = mido.Message("note_off", channel=note.part, note=note.pitch)
        events += [(start + note.start, 5, on), (start + note.end, 4, off)]
    return events


def _volume(gain_db: float) -> int:
    """Controller 7 for a gain: General MIDI's curve is 40 log10(value / 127) decibels."""
    return max(1, min(127, round(FULL_VOLUME * 10 ** (gain_db / 40))))
