// Draws the charts, folds the tables away, and hands out the results. Read the page's Python side for how it gets here.
(() => {
  "use strict";
  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const charts = data("charts");
  const results = data("results");

  // A chart without a neighbour has its table beside it, where there is room; see the style sheet.
  const roomy = matchMedia("(min-width: 1000px)").matches;
  const tables = [...document.querySelectorAll("details")];
  for (const each of tables) each.open = roomy && each.parentElement.classList.contains("alone");
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = tables.filter((each) => !each.open);
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });

  for (const button of document.querySelectorAll("button[data-result]")) {
    const result = results[Number(button.dataset.result)];
    button.hidden = false;
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([result.text], { type: "application/json" }));
      link.download = result.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }

  // ast: expressions are interpreted, not compiled, so that the page can forbid eval.
  const options = { renderer: "svg", actions: false, ast: true, tooltip: { disableDefaultStyle: true } };
  const drawn = Object.entries(charts).map(([id, spec]) => vegaEmbed(document.getElementById(id), spec, options));
  Promise.all(drawn).then(
    () => (document.documentElement.dataset.drawn = "all"),
    (error) => console.error(error),
  );
})();
