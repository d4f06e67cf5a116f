"""Renders scores with FluidSynth: many clips per run, each in its own time slot.

FluidSynth loads its soundfont once per run (which takes seconds for a compressed one), so a batch of scores
becomes one long MIDI file. In the gap between two clips everything is silenced and reset, long enough for the
reverb to decay.

Long notes of instruments that are bowed, blown or sung swell and vibrate (`Instrument.vibrato`): samples
alone hold them as still as a machine does, and a masked model holds them longer yet.
"""

from __future__ import annotations

import math
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
from recipes.nano.compose.score import (
    CLIP_SAMPLES,
    CLIP_SECONDS,
    FRAME_SECONDS,
    SAMPLE_RATE,
    Note,
    Score,
)

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
LONG_NOTE = 0.6  # seconds from which a note is shaped while it sounds
VIBRATO_HERTZ = 5.0  # five frames of a 25 Hz codec, so that equal notes have equal codes
VIBRATO_BEGINS, VIBRATO_GROWS = 0.2, 0.4  # seconds
SWELL_FROM, SWELL_PEAK, SWELL_TO = -4.0, 0.4, -8.0  # dB, share of the note's length, dB
_BEND_SEMITONES = 2  # of the pitch wheel, to either side
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
    for channel, part in enumerate(score.parts):
        vibrato = INSTRUMENTS[part.instrument].vibrato
        if vibrato is not None:
            notes = [note for note in score.notes if note.part == channel]
            events += _shaped(notes, start, channel, vibrato)
    return events


def _shaped(
    notes: Sequence[Note], start: float, channel: int, vibrato: float
) -> list[tuple[float, int, mido.Message]]:
    """Swells (controller 11) and vibrato (pitch wheel) of a part; between long notes both are at rest.

    Both are the channel's, so a held chord is shaped anew where one of its voices moves.
    """
    events: list[tuple[float, int, mido.Message]] = []
    ends: dict[float, float] = {}
    for note in notes:
        ends[note.start] = max(note.end, ends.get(note.start, 0.0))
    onsets = sorted(ends)
    for onset, following in zip(onsets, [*onsets[1:], CLIP_SECONDS], strict=True):
        length = min(ends[onset], following) - onset
        if length < LONG_NOTE:
            continue
        for step in range(round(length / FRAME_SECONDS) - 1):
            after = step * FRAME_SECONDS
            depth = vibrato * min(1.0, max(0.0, (after - VIBRATO_BEGINS) / VIBRATO_GROWS))
            cents = depth * math.sin(2 * math.pi * VIBRATO_HERTZ * after)
            events += _expression(start + onset + after, channel, swell(after / length), cents)
        events += _expression(start + onset + length - 0.001, channel, 0.0, 0.0)
    return events


def swell(position: float) -> float:
    """The level in dB at a position (0 to 1) in a long note: it grows, then fades."""
    if position < SWELL_PEAK:
        return SWELL_FROM * (1 - position / SWELL_PEAK)
    return SWELL_TO * (position - SWELL_PEAK) / (1 - SWELL_PEAK)


def _expression(
    when: float, channel: int, level_db: float, cents: float
) -> list[tuple[float, int, mido.Message]]:
    """Controller 11 (40 log10(value / 127) decibels, as for volume) and the pitch wheel."""
    level = mido.Message(
        "control_change", channel=channel, control=11, value=round(127 * 10 ** (level_db / 40))
    )
    bend = mido.Message(
        "pitchwheel", channel=channel, pitch=round(cents / (100 * _BEND_SEMITONES) * 8191)
    )
    return [(when, 6, level), (when, 6, bend)]


def _volume(gain_db: float) -> int:
    """Controller 7 for a gain: General MIDI's curve is 40 log10(value / 127) decibels."""
    return max(1, min(127, round(FULL_VOLUME * 10 ** (gain_db / 40))))
