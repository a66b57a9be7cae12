"""The page that a run ends with."""

from pathlib import Path

from nextpixel.training import fit
from nextpixel.training.report import read_metrics, results
from tests.training.runs import OPTIONS, make, metrics_of, tiny_mnist


def test_a_run_ends_with_a_page(tmp_path: Path) -> None:
    data, model = tiny_mnist(), make()
    out = fit(model, data, out=tmp_path / "run", **OPTIONS)
    page = (out / "report.html").read_text()
    scores = [line["valid"] for line in metrics_of(out) if "valid" in line]
    assert f"{min(scores):.4f} ±" in page
    for words in ("Learning curve", "Over time", "lr: 0.01", "6 steps in", "100 images"):
        assert words in page
    assert page.count("<img") == 3
    assert "How well it predicts" in page
    chart = (out / "scale.svg").read_text()
    for name in ("this model", "uniform guess", "PNG", "WebP"):
        assert f"<!-- {name} -->" in chart  # matplotlib draws words as paths, and names them
    assert f"<!-- {min(scores):.2f} -->" in chart
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_results_name_the_best_score(tmp_path: Path) -> None:
    data, model = tiny_mnist(), make()
    records = [
        {"step": 1, "loss": 2.0, "images_per_second": 10.0, "seconds": 60.0},
        {"step": 2, "valid": 1.5, "valid_error": 0.1, "images_per_second": 30.0, "seconds": 90.0},
        {"step": 3, "valid": 1.7, "valid_error": 0.1, "images_per_second": 20.0, "seconds": 120.0},
    ]
    rows = dict(results(records, model, data))
    assert rows["Best validation score"] == "1.5000 ± 0.1000 bits/dim at step 2"
    assert rows["Training"] == "3 steps in 2.0 minutes, 20 images/s"


def test_half_a_line_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
