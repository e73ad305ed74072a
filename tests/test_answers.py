"""Fields beside exercises: what is right comes from what the solution prints."""

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tools.answers import Question, printed_by

CHAPTERS = sorted((Path(__file__).parent.parent / "book").glob("*.ipynb"))
ANSWER = re.compile(r"^```\{answer\} (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_number_of_a_place_is_right() -> None:
    printed = "5,120 terms for 3,628,800 orders, X3: -0.5 of 1e-06"
    numbers = [Question(ask="?", number=place).answer(printed) for place in (1, 2, 3, 4)]
    assert numbers == [5120, 3628800, -0.5, 1e-6]
    with pytest.raises(ValueError, match="number: expected at least 5 in what the solution prints"):
        Question(ask="?", number=5).answer(printed)


def test_a_choice_is_right_where_the_solution_says_so() -> None:
    question = Question(ask="?", choices=["yes", "no"], right="no", shown="best: False")
    assert question.answer("the sharpest is the best: False\n") == "no"
    with pytest.raises(ValueError, match="shown: expected 'best: False' in what the solution prints, got 'True'"):
        question.answer("True")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"number": 1, "right": "a", "choices": ["a"], "shown": "a"},
        {"right": "c", "choices": ["a", "b"], "shown": "a"},
        {"right": "a", "choices": ["a", "b"]},
        {"number": 0},
        {"right": "a", "choices": ["a", "b"], "shown": "a", "slips": {1: "b"}},
        {"number": 1, "hint": "a"},
    ],
)
def test_a_question_is_of_one_kind(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Question.model_validate({"ask": "?", **fields})


def test_what_a_solution_prints_is_that_of_its_own_cells() -> None:
    def code(text: str) -> dict[str, object]:
        return {"cell_type": "code", "source": "", "outputs": [{"text": [text]}, {"data": {}}]}

    def text(source: str) -> dict[str, object]:
        return {"cell_type": "markdown", "source": [source]}

    cells = [code("0"), text("````{solution-start} ex-a\n````"), code("1\n"), code("2"), text("````{solution-end}")]
    assert printed_by([*cells, code("3")], "ex-a") == "1\n2"
    with pytest.raises(ValueError, match="answer: expected a solution to 'ex-b', got none"):
        printed_by(cells, "ex-b")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_exercises_of_a_chapter_have_fields_whose_answers_its_solutions_give(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    asked = ANSWER.findall(text)
    assert asked
    for label, body in asked:
        assert f":label: {label}\n" in text
        question = Question.model_validate(yaml.safe_load(body))
        answer = question.answer(printed_by(cells, label))
        assert question.hints
        assert all(slip != answer for slip in question.slips)
