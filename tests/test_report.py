import matplotlib.pyplot as plt
import pandas as pd
import pytest

from kdcore.evaluation.report import write_report


def test_text_tables_and_figures_are_in_one_file(tmp_path):
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    figure.set_label("A line that rises & ends.")
    table = pd.DataFrame({"arm": ["student"], "Dice": [0.54321]})
    path = write_report(tmp_path / "r.html", "a < b", ["One.", "| a |\n| b |", table, figure])
    page = path.read_text()
    assert "<h1>a &lt; b</h1>" in page and "<p>One.</p>" in page
    assert "<pre>| a |\n| b |</pre>" in page and "0.543" in page
    assert 'alt="A line that rises &amp; ends." src="data:image/png;base64,' in page
    assert "http" not in page  # fetches nothing
    plt.close(figure)


def test_other_parts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="strings, pandas tables and matplotlib figures"):
        write_report(tmp_path / "r.html", "t", [3])
    assert not list(tmp_path.iterdir())
