"""The dtype in which a model is loaded, and models that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from magnet_cli.checkpoints.load import export_checkpoint, import_checkpoint, load_parts
from magnet_cli.checkpoints.place import find_place
from magnet_cli.config import Modeling
from magnet_cli.errors import UsageError
from magnet_cli.evaluation.shapes import SHAPES, lm_config
from magnet_cli.models import precision
from magnet_cli.models.precision import make_int8, pick_dtype
from tests.models.tiny import tiny_lm

SMALL = "facebook/magnet-small-10secs"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """torch's information about the processor, with or without its newer API."""

    def says(*has: str, newer: bool = True) -> None:
        precision.multiplies_bfloat16.cache_clear()
        if newer:
            monkeypatch.setattr(
                torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True), raising=False
            )
            return
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        for name in ("avx512_bf16", "amx_tile"):
            said = name in has
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda said=said: said)

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    yield says
    precision.multiplies_bfloat16.cache_clear()


def test_auto_is_bfloat16_for_large_models_where_the_processor_multiplies_it(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, large, little = torch.device("cpu"), 420_000_000, 5_000_000
    for feature in ("avx512_bf16", "amx_bf16", "bf16"):
        processor("avx2", feature)
        assert pick_dtype("auto", cpu, large) == torch.bfloat16
        assert pick_dtype("auto", cpu, little) == torch.float32
        assert pick_dtype("float32", cpu, large) == torch.float32
        assert pick_dtype("auto", torch.device("mps"), large) == torch.float32
    for feature in ("avx512_bf16", "amx_tile"):
        processor(feature, newer=False)
        assert pick_dtype("auto", cpu, large) == torch.bfloat16
    # Without them every product would be converted, which is slower than float32.
    for newer in (True, False):
        processor("avx2", "avx512_f", "avx512_vnni", newer=newer)
        assert pick_dtype("auto", cpu, large) == torch.float32
    # The user tells oneDNN not to use those instructions.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    processor("avx512_bf16")
    assert pick_dtype("auto", cpu, large) == torch.float32


def test_auto_is_chosen_by_the_sizes_that_are_loaded(
    hub_cache: Path, processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("avx512_bf16")
    assert load_parts(find_place(SMALL), "cpu").lm.precision == "float32"
    monkeypatch.setattr(precision, "_LARGE", 10.0)
    assert load_parts(find_place(SMALL), "cpu").lm.precision == "bfloat16"
    assert load_parts(find_place(SMALL), "cpu").codec.quantizer.codebooks[0].dtype == torch.float32


@pytest.mark.parametrize("modeling", ["masked", "autoregressive", "hybrid"])
def test_parameters_and_their_bytes_are_counted(modeling: Modeling) -> None:
    lm = tiny_lm(modeling)
    assert lm.config.parameters == sum(each.numel() for each in lm.parameters())
    whole = lm.config.parameters
    assert precision.weight_bytes(lm.config, "bfloat16") == 2 * whole
    make_int8(lm)
    # Scales, one number per row, are not counted.
    held = sum(
        each.numel() * each.element_size()
        for name, each in lm.state_dict().items()
        if not name.endswith("scale")
    )
    assert precision.weight_bytes(lm.config, "int8") == held


def test_what_does_not_fit_is_refused_with_the_precision_that_would(
    hub_cache: Path,
    processor: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    config = lm_config(SHAPES["medium"], "masked", 10.0)
    room = {name: precision.weight_bytes(config, name) for name in ("float32", "bfloat16", "int8")}

    def hint(dtype: str, free: int) -> str:
        monkeypatch.setattr(precision, "free_memory", lambda device: free)
        with pytest.raises(
            UsageError, match=f"medium takes .* GB in {dtype}, and .* are free"
        ) as error:
            precision.check_room("medium", config, dtype, torch.device("cpu"))
        return error.value.hint

    processor("avx512_bf16")
    assert hint("float32", room["bfloat16"]).startswith("Take --dtype bfloat16: ")
    assert hint("float32", room["int8"]).startswith("Take --dtype int8: ")
    assert hint("bfloat16", room["int8"]).startswith("Take --dtype int8: ")
    assert "smaller model" in hint("int8", room["int8"] - 1)
    processor("avx2")  # which would take long in bfloat16
    assert hint("float32", room["bfloat16"]).startswith("Take --dtype int8: ")
    monkeypatch.setattr(precision, "free_memory", lambda device: room["float32"])
    precision.check_room("medium", config, "float32", torch.device("cpu"))
    # Loading a model checks.
    monkeypatch.setattr(precision, "free_memory", lambda device: 1000)
    with pytest.raises(UsageError, match="memory"):
        load_parts(find_place(SMALL), "cpu")
    # Converting it does not: its weights stay memory-mapped.
    import_checkpoint(find_place(SMALL), tmp_path / "mine")
    export_checkpoint(find_place(SMALL), tmp_path / "theirs")


def test_free_memory_is_what_a_container_allows(tmp_path: Path) -> None:
    assert (precision.free_memory(torch.device("cpu")) or 1) > 0
    for name, text in {
        "memory.max": "4000\n", "memory.current": "3500\n", "memory.stat": "anon 2000\nfile 1500\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    assert precision._container_free(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert precision._container_free(tmp_path) is None
    assert precision._container_free(tmp_path / "none") is None
