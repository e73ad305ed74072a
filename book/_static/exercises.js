// A field beside an exercise: the reader's number or choice is told right, nearly right or not; hints come in steps.
addEventListener("load", () => {
  const { element } = bnicl;
  const number = (text) => { // 0.5, 0,5, 5,120, 1/2, 50 % and 1e-3
    const plain = text.replace(/[−–]/g, "-").replace(/[\s\u00a0\u202f']/g, "").replace(/^\+/, "")
      .replace(/^-?[1-9]\d{0,2}(,\d{3})+(?!\d)/, (whole) => whole.replaceAll(",", "")).replace(",", ".");
    const [, value, under, percent] = plain.match(/^(-?[\d.]+(?:e[+-]?\d+)?)(?:\/(-?[\d.]+))?(%?)$/i) ?? [];
    return value === undefined ? NaN : (+value / (under ? +under : 1)) * (percent ? 0.01 : 1);
  };
  function judge(given, { answer, within, slips, choices }) {
    if (choices.length) return given === answer ? ["right", "Right."] : ["no", "No; try again, or take a hint."];
    const x = number(given), apart = Math.abs(x - answer), room = within + 1e-9 * Math.abs(answer);
    const slip = slips.find(([value]) => Math.abs(value - x) <= within + 1e-9);
    if (!Number.isFinite(x)) return ["no", "Type a number, such as 0.5 or 1/2."];
    if (apart <= room) return ["right", "Right."];
    if (slip) return ["no", `Not quite. ${slip[1]}`];
    if (Math.abs(x + answer) <= room) return ["nearly", "Nearly: look at the sign."];
    if (within && (apart <= 4 * room || apart <= 0.05 * Math.abs(answer))) return ["nearly", "Nearly; compute it more precisely."];
    return ["no", "No; try again, or take a hint."];
  }
  document.querySelectorAll(".bnicl-ask").forEach((root, i) => {
    const asked = JSON.parse(root.dataset.question), form = element("form"), said = element("output", "", { "aria-live": "polite" });
    const input = asked.choices.length ? element("select") : element("input", "", { type: "text", inputmode: "decimal", autocomplete: "off", size: 9 });
    asked.choices.forEach((choice) => input.append(element("option", choice)));
    if (asked.choices.length) input.prepend(element("option", "choose", { value: "", selected: "" }));
    input.id = `bnicl-answer-${i}`;
    form.append(element("label", /\?$/.test(asked.ask) ? `${asked.ask} ` : `${asked.ask}: `, { for: input.id }), input, element("button", "check", { type: "submit" }), said);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const [verdict, text] = judge(input.value, asked);
      said.className = `bnicl-${verdict}`;
      said.textContent = text;
    });
    root.append(form);
    if (!asked.hints.length) return;
    const more = element("button", "hint", { type: "button" }), hints = element("ol", "", { "aria-live": "polite" });
    more.addEventListener("click", () => {
      hints.append(element("li", asked.hints[hints.childElementCount]));
      if (hints.childElementCount === asked.hints.length) more.remove();
    });
    form.append(more);
    root.append(hints);
  });
});
