"""Descriptions of models: the overview, layers, and saved models."""

import json
from pathlib import Path

import pytest

from nextpixel import AutoregressiveModel, GatedPixelCNN, PixelCNN, UserError, models
from nextpixel.cli import describe


def small() -> PixelCNN:
    return PixelCNN(shape=(1, 6, 5), levels=4, classes=3, width=8, blocks=3)


def test_overview_names_every_kind_and_its_paper() -> None:
    text = describe.overview()
    for name in models.__all__:
        assert f"  {name} " in text
        assert getattr(models, name).paper in text


def test_overview_sums_up_the_shipped_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {
        "model": "PixelCNN",
        "parameters": 1234,
        "data": "mnist",
        "scores": {"test": {"bits_per_dim": 0.91, "nats": 494.5}},
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(describe, "shipped", lambda: {"my-digits": tmp_path})
    line = next(line for line in describe.overview().splitlines() if "my-digits" in line)
    assert line.split(maxsplit=1)[1] == (
        "PixelCNN, 1,234 parameters, mnist: 0.9100 bits/dim, 494.50 nats"
    )
    card["accuracy"] = {"test": 0.97125}
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert "494.50 nats, classifies 97.12 %" in describe.overview()
    card["task"] = {"name": "inpaint", "holes": "mixed"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert "1,234 parameters, mnist (inpaint, mixed): 0.9100" in describe.overview()
    monkeypatch.setattr(describe, "shipped", dict)
    assert "come with nextpixel:\n  none\n" in describe.overview()


@pytest.mark.parametrize("kind", [PixelCNN, GatedPixelCNN])
def test_layers_add_up_to_all_parameters(kind: type[AutoregressiveModel]) -> None:
    model = kind(shape=(1, 6, 5), levels=4, classes=3, width=8, blocks=3)  # type: ignore[call-arg]
    *rows, total = describe.layers(model).splitlines()[2:]
    count = sum(p.numel() for p in model.parameters())
    assert int(total.split()[-1].replace(",", "")) == count
    assert sum(int(row.split()[-1].replace(",", "")) for row in rows) == count
    assert len({len(row) for row in [*rows, total]}) == 1  # the columns stand below each other


def test_layers_names_settings_and_counts_repeated_layers() -> None:
    text = describe.layers(small())
    assert "width=8, blocks=3" in text
    assert " 3 x " in text


def test_explain_a_kind_of_model_takes_no_memory() -> None:
    text = describe.explain("PixelCNN", (1, 28, 28), 256, None)
    assert text.startswith(f"PixelCNN: {PixelCNN.paper}\n")
    assert "shape=[1, 28, 28], levels=256" in text


def test_explain_a_saved_model_shows_its_card(tmp_path: Path) -> None:
    small().save(tmp_path)
    plain = describe.explain(str(tmp_path), (1, 28, 28), 256, None)
    assert plain.startswith(f"{tmp_path}: PixelCNN: {PixelCNN.paper}\n")
    assert "shape=[1, 6, 5], levels=4" in plain
    (tmp_path / "card.json").write_text('{"data": "mnist"}')
    assert describe.explain(str(tmp_path), (1, 28, 28), 256, None) == (
        f'{plain}\n\nCard:\n{{"data": "mnist"}}'
    )


@pytest.mark.parametrize("name", ["nothing", "runs/a.b", "./nothing.MyNet"])
def test_explain_refuses_unknown_names(name: str) -> None:
    with pytest.raises(UserError, match=r"does not exist.*Kinds of models are .*PixelCNN"):
        describe.explain(name, (1, 28, 28), 256, None)
