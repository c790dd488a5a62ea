"""The picture of a run's losses."""

from PIL import Image

from git_caption.report.plots import CIDER, SHUFFLED, TRAINED, VALIDATED, plot_losses


def colours(path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(1 << 20)
    return {colour for count, colour in found if count > 60}  # of a line; letters have edges of all greys


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_each_curve_there_is_has_its_colour(tmp_path):
    journal, validation, out = tmp_path / "journal.csv", tmp_path / "validation.csv", tmp_path / "loss.png"
    journal.write_text("step,loss\n" + "".join(f"{step},{3 / step:.3f}\n" for step in range(1, 50)))
    plot_losses(journal, None, out)
    assert rgb(TRAINED) in colours(out) and rgb(VALIDATED) not in colours(out)
    head = "step,loss,shuffled_loss,cider\n"
    validation.write_text(head + "10,1.0,1.5,0.2\n20,0.8,1.4,0.5\n30,0.9,1.6,\n")
    plot_losses(journal, validation, out)
    assert {rgb(colour) for colour in (TRAINED, VALIDATED, SHUFFLED, CIDER)} <= colours(out)
    validation.write_text(head + "10,1.0,,\n20,0.8,,\n")
    plot_losses(journal, validation, out)
    assert rgb(VALIDATED) in colours(out) and not {rgb(SHUFFLED), rgb(CIDER)} & colours(out)


def test_a_run_without_a_line_yet_is_an_empty_picture(tmp_path):
    (tmp_path / "journal.csv").write_text("step,loss\n")
    plot_losses(tmp_path / "journal.csv", None, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
