"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (query, root) => Array.from((root || document).querySelectorAll(query));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const choose = document.getElementById("choose");
  const said = document.getElementById("chosen");
  const parts = all("article.layer-part");
  const drawings = all("svg.network");
  let current = -1;

  document.documentElement.classList.add("scripted");

  // Colour, number and bar of every box.
  function colour(index) {
    const metric = data.metrics[index];
    for (const box of all("svg.network g.layer")) {
      const layer = Number(box.dataset.layer);
      const level = metric.levels[layer];
      box.querySelector(".fill").setAttribute("class", `fill ${metric.kinds ? "c" : "q"}${level}`);
      box.querySelector(".pattern").setAttribute("class", metric.kinds ? `pattern h${level}` : "pattern");
      const value = box.querySelector(".value");
      value.textContent = metric.texts[layer];
      const ink = `${metric.kinds ? "k" : "i"}${level}`;
      value.setAttribute("class", `value ${ink}`);
      box.querySelector(".name").setAttribute("class", `name ${ink}`);
      const track = box.querySelector(".track");
      track.setAttribute("class", metric.kinds ? "track none" : `track ${ink}`);
      const bar = box.querySelector(".bar");
      bar.setAttribute("width", String(metric.bars[layer] * Number(track.getAttribute("width"))));
      bar.setAttribute("class", `bar ${ink}`);
    }
    for (const legend of all("ul.legend")) {
      legend.hidden = Number(legend.dataset.metric) !== index;
    }
  }

  // One layer is shown at a time; every picture of it is marked.
  function select(layer, scroll) {
    if (!(layer >= 0 && layer < parts.length)) return;
    current = layer;
    for (const part of parts) part.hidden = Number(part.dataset.layer) !== layer;
    for (const box of all("svg.network g.layer")) {
      const here = Number(box.dataset.layer) === layer;
      box.setAttribute("aria-pressed", String(here));
      box.setAttribute("tabindex", here ? "0" : "-1");
    }
    for (const one of all("svg.roofline .point, table.all tbody tr")) {
      one.classList.toggle("current", Number(one.dataset.layer) === layer);
    }
    for (const chart of all("svg.roofline")) {
      const point = chart.querySelector(".point.current");
      if (point) chart.append(point);
    }
    choose.value = String(layer);
    if (scroll) {
      said.textContent = `${choose.selectedOptions[0].textContent} is shown`;
      history.replaceState(null, "", `#layer-${layer}`);
      document.getElementById("layers").scrollIntoView({
        behavior: still.matches ? "auto" : "smooth",
        block: "nearest",
      });
    }
  }

  // The box that lies nearest in the direction of an arrow key.
  function neighbour(box, key) {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    const middle = (one) => {
      const area = one.getBoundingClientRect();
      return [area.left + area.width / 2, area.top + area.height / 2];
    };
    const [x, y] = middle(box);
    let best = null;
    let least = Infinity;
    for (const other of all("g.layer", box.ownerSVGElement)) {
      if (other === box) continue;
      const [ox, oy] = middle(other);
      const along = (ox - x) * dx + (oy - y) * dy;
      const aside = Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx);
      const cost = along + 3 * aside;
      if (along > 1 && cost < least) [best, least] = [other, cost];
    }
    return best;
  }

  function focus(box) {
    if (!box) return;
    for (const other of all("g.layer[tabindex='0']", box.ownerSVGElement)) other.setAttribute("tabindex", "-1");
    box.setAttribute("tabindex", "0");
    box.focus();
  }

  for (const drawing of drawings) {
    drawing.addEventListener("click", (event) => {
      const box = event.target.closest("g.layer");
      if (!box) return;
      focus(box);
      select(Number(box.dataset.layer), true);
    });
    drawing.addEventListener("keydown", (event) => {
      const box = event.target.closest("g.layer");
      if (!box || event.ctrlKey || event.altKey || event.metaKey) return;
      const boxes = all("g.layer", drawing).sort((a, b) => Number(a.dataset.layer) - Number(b.dataset.layer));
      if (event.key === "Enter" || event.key === " ") select(Number(box.dataset.layer), true);
      else if (event.key === "Home") focus(boxes[0]);
      else if (event.key === "End") focus(boxes[boxes.length - 1]);
      else if (event.key.startsWith("Arrow")) focus(neighbour(box, event.key));
      else return;
      event.preventDefault();
    });
  }

  for (const point of all("svg.roofline .point")) {
    point.addEventListener("click", () => select(Number(point.dataset.layer), true));
  }
  for (const button of all("table.all tbody button")) {
    button.addEventListener("click", () => select(Number(button.dataset.layer), true));
  }
  for (const radio of all("input[name='metric']")) {
    radio.addEventListener("change", () => colour(Number(radio.value)));
    if (radio.checked) colour(Number(radio.value));
  }
  choose.addEventListener("change", () => select(Number(choose.value), true));
  for (const button of all("button[data-step]")) {
    button.addEventListener("click", () => {
      select((current + Number(button.dataset.step) + parts.length) % parts.length, true);
    });
  }

  // A heading sorts by its column, then the other way round.
  all("table.all thead button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const heading = button.parentElement;
      const down = heading.getAttribute("aria-sort") === "descending";
      const body = document.querySelector("table.all tbody");
      const key = (row) => {
        const cell = row.cells[column];
        return column === 0 ? Number(row.dataset.layer) : Number(cell.dataset.value ?? NaN);
      };
      const rows = Array.from(body.rows).sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (Number.isNaN(x) || Number.isNaN(y)) {
          return b.cells[column].textContent.localeCompare(a.cells[column].textContent, "en", { numeric: true });
        }
        return y - x;
      });
      if (down) rows.reverse();
      for (const other of all("table.all thead th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "ascending" : "descending");
      body.append(...rows);
    });
  });

  const asked = /^#layer-(\d+)$/.exec(location.hash);
  select(asked && Number(asked[1]) < parts.length ? Number(asked[1]) : data.first, false);
})();
