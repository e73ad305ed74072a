// What scrolls sideways within a page can be reached by keyboard; the list of references is a plain list of entries.
addEventListener("load", () => {
  for (const box of document.querySelectorAll("article table, article div, article pre"))
    if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === "auto") box.tabIndex = 0;
  for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
});
