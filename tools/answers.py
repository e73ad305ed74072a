"""For Sphinx: the directive `answer`, a field beside an exercise in which the reader's answer is told right or wrong.

    ```{answer} ex-rate
    ask: The exponent
    number: 1                       # the first number that the solution prints
    within: 0.05                    # how far from it an answer may be
    slips: {0.5: The distance falls.}   # likely wrong answers, and what is wrong with each
    hints: [How far off is a frequency from n rows?]
    ```

What is right comes from the executed solution: with `number` the one of that place among the numbers that its cells
print; with `choices` and `right` a choice, where the cells print `shown`. A build fails where they do not.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")


class Question(BaseModel):
    """What the body of the directive says; one of `number` and `choices`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ask: str
    number: Annotated[int, Field(ge=1)] | None = None
    within: Annotated[float, Field(ge=0)] = 0.0
    slips: dict[float, str] = {}
    choices: list[str] = []
    right: str | None = None
    shown: str | None = None
    hints: list[str] = []

    @model_validator(mode="after")
    def _one_kind(self) -> Question:
        if (self.number is None) == (self.right is None):
            raise ValueError("number: expected either a number or choices with the right one")
        if self.right is not None and (self.right not in self.choices or self.shown is None):
            raise ValueError("right: expected one of the choices, and what the solution shows for it")
        if self.right is not None and self.slips:
            raise ValueError("slips: expected none beside choices")
        return self

    def answer(self, printed: str) -> float | str:
        """What is right, given what the solution's cells print; a ValueError where they do not say it."""
        if self.right is not None:
            if str(self.shown) not in printed:
                raise ValueError(f"shown: expected {self.shown!r} in what the solution prints, got {printed!r}")
            return self.right
        numbers = [float(found.replace(",", "")) for found in NUMBER.findall(printed)]
        if len(numbers) < (self.number or 0):
            raise ValueError(f"number: expected at least {self.number} in what the solution prints, got {printed!r}")
        return numbers[(self.number or 1) - 1]


def printed_by(cells: list[dict[str, Any]], label: str) -> str:
    """What the code cells of the solution to the exercise print; a ValueError where there are none."""
    source = ["".join(cell["source"]) for cell in cells]
    begin = next((i for i, text in enumerate(source) if f"{{solution-start}} {label}" in text), None)
    if begin is None:
        raise ValueError(f"answer: expected a solution to {label!r}, got none")
    lines = list[str]()
    for text, cell in zip(source[begin + 1 :], cells[begin + 1 :], strict=True):
        if cell["cell_type"] == "code":
            lines += ["".join(output["text"]) for output in cell["outputs"] if "text" in output]
        elif "{solution-end}" in text:
            break
    return "".join(lines)


class asked(nodes.General, nodes.Element):  # noqa: N801
    """A question whose answer is not yet known."""


class AnswerDirective(Directive):
    """```{answer} LABEL, with a `Question` in YAML."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        try:
            question = Question.model_validate(yaml.safe_load("\n".join(self.content)))
        except (yaml.YAMLError, ValidationError) as error:
            raise self.error(f"answer to {self.arguments[0]}: {error}") from error
        return [asked(label=self.arguments[0], question=question.model_dump_json())]


def fill_in(app: Sphinx, document: nodes.document) -> None:
    """Puts the field in the place of each question, with the answer that the executed solution gives."""
    questions = list(document.findall(asked))
    executed = Path(app.outdir).parent / "jupyter_execute" / f"{app.env.docname}.ipynb"
    cells = json.loads(executed.read_text())["cells"] if questions and executed.is_file() else []
    for node in questions:
        question = Question.model_validate_json(node["question"])
        told = {
            "ask": question.ask,
            "answer": question.answer(printed_by(cells, node["label"])),
            "within": question.within,
            "slips": [*question.slips.items()],
            "choices": question.choices,
            "hints": question.hints,
        }
        data = html.escape(json.dumps(told, ensure_ascii=False))
        node.replace_self(nodes.raw("", f'<div class="bnicl-ask" data-question="{data}"></div>', format="html"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(asked)
    app.add_directive("answer", AnswerDirective)
    app.connect("doctree-read", fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
