// Links to theorems, equations, figures and terms show what they lead to, on hover and on focus; Escape closes.
addEventListener("load", () => {
  const { element } = bnicl, root = new URL("..", document.querySelector("script[src*='preview.js']").src).href;
  const tip = element("div", "", { class: "bnicl-preview", role: "tooltip", id: "bnicl-preview", hidden: "" });
  let loading = null, timer = 0, shown = null, wanted = null; // the link whose preview is seen, and the last that asked for one
  const load = () => (loading ??= new Promise((done) => {
    const script = element("script", "", { src: `${root}_static/previews.js` });
    script.addEventListener("load", () => done(bnicl.previews));
    script.addEventListener("error", () => done({}));
    document.head.append(script);
  }));
  function hide() {
    clearTimeout(timer);
    wanted = null;
    tip.hidden = true;
    shown?.removeAttribute("aria-describedby");
    shown = null;
  }
  async function show(link) {
    wanted = link;
    const text = (await load())[link.href.replace(root, "").replace(/\?[^#]*/, "")];
    if (wanted !== link) return;
    hide();
    if (!text) return;
    shown = link;
    tip.innerHTML = text;
    tip.querySelectorAll("img").forEach((image) => { image.src = root + image.getAttribute("src"); });
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    const width = Math.min(560, innerWidth - 16);
    tip.style.width = `${width}px`;
    await window.MathJax?.typesetPromise?.([tip]);
    if (shown !== link) return;
    bnicl.fit(tip);
    const at = link.getBoundingClientRect();
    tip.style.left = `${scrollX + Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
    const above = at.bottom + tip.offsetHeight + 8 > innerHeight && at.top > tip.offsetHeight + 8;
    tip.style.top = `${scrollY + (above ? at.top - tip.offsetHeight - 4 : at.bottom + 4)}px`;
  }
  const later = (act, wait) => { clearTimeout(timer); timer = setTimeout(act, wait); };
  document.body.append(tip);
  document.querySelectorAll("article a.internal[href*='#']").forEach((link) => {
    link.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") later(() => show(link), 250); });
    link.addEventListener("focus", () => { if (link.matches(":focus-visible")) later(() => show(link), 250); });
    link.addEventListener("pointerleave", () => later(hide, 250));
    link.addEventListener("blur", hide);
  });
  tip.addEventListener("pointerenter", () => clearTimeout(timer));
  tip.addEventListener("pointerleave", () => later(hide, 250));
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
});
