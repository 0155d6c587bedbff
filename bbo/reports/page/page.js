// Parallel coordinates: shows the best share of the lines, and says what a line is where somebody points at it.
"use strict";
for (const figure of document.querySelectorAll("figure[data-order]")) {
  const order = JSON.parse(figure.dataset.order);
  const words = JSON.parse(figure.dataset.words);
  const lines = order.map((number) => figure.querySelector(`[id$="evaluation-${number}"]`));
  const chooser = figure.querySelector("input");
  lines.forEach((line, place) => {
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = words[place];
    line.prepend(title);
  });
  chooser.addEventListener("input", () => {
    const count = Math.max(1, Math.ceil((order.length * chooser.value) / 100));
    figure.querySelector("output").value = chooser.value;
    lines.forEach((line, place) => line.classList.toggle("out", place >= count));
  });
}
