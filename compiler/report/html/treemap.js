// Mass as area: a squarified treemap (Bruls, Huizing, van Wijk 2000) of the parts with mass.

const map = byId("map");
const MAP_HEIGHT = 290;

const rings = svg("g", { "aria-hidden": "true" }); // around what is selected, or has the focus

const heavy = (node) => node.children.filter((child) => child.share > 0);
const levels = nodes.filter((n) => n.targets && n.targets[1] > 0).map((n) => Math.log(n.targets[1]));
const [lowest, highest] = [Math.min(...levels), Math.max(...levels)];

function shade(target) {
  if (!target) return "var(--raised)";
  const part = highest > lowest ? (Math.log(target) - lowest) / (highest - lowest) : 0.5;
  return `color-mix(in oklab, var(--high) ${(part * 100).toFixed(0)}%, var(--low))`;
}

// Places for areas that sum to the box, rows being filled while they become squarer.
function squarified(areas, x, y, width, height) {
  const places = [];
  let at = 0;
  while (at < areas.length) {
    const side = Math.min(width, height);
    const worst = (sum, most, least) =>
      Math.max((side * side * most) / (sum * sum), (sum * sum) / (side * side * least));
    let sum = areas[at];
    let end = at + 1;
    while (end < areas.length) {
      const more = sum + areas[end];
      if (worst(more, areas[at], areas[end]) > worst(sum, areas[at], areas[end - 1])) break;
      sum = more;
      end += 1;
    }
    const thick = side > 0 ? sum / side : 0;
    let along = 0;
    for (const area of areas.slice(at, end)) {
      const long = thick > 0 ? area / thick : 0;
      if (width >= height) places.push([x, y + along, thick, long]);
      else places.push([x + along, y, long, thick]);
      along += long;
    }
    if (width >= height) [x, width] = [x + thick, width - thick];
    else [y, height] = [y + thick, height - thick];
    at = end;
  }
  return places;
}

function drawMap(width) {
  const picture = svg("svg", {
    width, height: MAP_HEIGHT, role: "group", "aria-label": "share of the mass of each weight, as areas",
  });
  const tiles = svg("g");
  const frames = svg("g", { "aria-hidden": "true" });
  const place = (node, x, y, w, h) => {
    const inner = heavy(node);
    if (!inner.length) {
      tiles.append(tile(node, x, y, w, h));
      return;
    }
    const sorted = [...inner].sort((a, b) => b.share - a.share);
    const whole = sorted.reduce((sum, child) => sum + child.share, 0);
    const areas = sorted.map((child) => (child.share / whole) * w * h);
    squarified(areas, x, y, w, h).forEach((box, i) => place(sorted[i], ...box));
    if (inner.length > 1 && node.around) {
      const size = { x, y, width: Math.max(w, 0), height: Math.max(h, 0) };
      frames.prepend(svg("rect", { ...size, class: node.depth > 1 ? "frame" : "outer frame" }));
    }
  };
  if (nodes[0].mass > 0) place(nodes[0], 1, 1, width - 2, MAP_HEIGHT - 2);
  picture.append(tiles, frames, rings);
  map.replaceChildren(nodes[0].mass > 0 ? picture : el("p", { class: "dim" }, "no part has mass"));
  showMap(selected);
}

// As much of the end of a path as fits.
function fitting(path, width) {
  const room = Math.floor((width - 8) / 6.7);
  const parts = path.split(".").filter((part) => part !== "*");
  const ends = parts.map((_, i) => parts.slice(i).join("."));
  const shown = ends.find((text) => text.length <= room);
  return shown ?? (room >= 4 ? `…${path.slice(1 - room)}` : "");
}

function tile(node, x, y, w, h) {
  const target = node.targets ? node.targets[1] : 0;
  const box = svg("rect", { x, y, width: Math.max(w, 0), height: Math.max(h, 0) });
  box.style.fill = shade(target);
  const name = `${shownPath(node)}, ${percent(node.share)} of the mass, target ${range(node.targets) || "0"}`;
  const made = svg("g", { class: "tile-box", "data-node": node.i, tabindex: "-1", role: "button", "aria-label": name },
    svg("title", {}, name), box);
  const copies = node.copies > 1 && w > 120 ? `, ${counted(node.copies)} copies` : "";
  const lines = [fitting(shownPath(node), w), w > 60 ? percent(node.share) + copies : ""];
  lines.forEach((line, i) => {
    if (line && h > 16 + 14 * i) made.append(svg("text", { x: x + 6, y: y + 15 + 14 * i }, line));
  });
  return made;
}

const tilesOf = () => [...map.querySelectorAll(".tile-box")];
const nodeOf = (box) => nodes[Number(box.dataset.node)];
map.addEventListener("click", (event) => {
  const box = event.target.closest(".tile-box");
  if (box) select(nodeOf(box), "map");
});
roving(map, tilesOf, (box) => select(nodeOf(box), "map"));

function ring(box, style) {
  const { x, y, width, height } = box.querySelector("rect").getBBox();
  const size = { width: Math.max(width - 4, 0), height: Math.max(height - 4, 0) };
  return svg("rect", { x: x + 2, y: y + 2, ...size, class: style });
}

function showMap(node) {
  const all = tilesOf();
  const inside = all.filter((box) => node !== nodes[0] && isWithin(nodeOf(box), node));
  for (const box of all) box.classList.toggle("chosen", inside.includes(box));
  rings.replaceChildren(...inside.map((box) => ring(box, "ring")));
  if (all.length && !map.contains(document.activeElement)) moveTab(all, inside[0] || all[0]);
}
const unfocused = () => rings.querySelectorAll(".focus").forEach((old) => old.remove());
map.addEventListener("focusin", (event) => {
  unfocused();
  if (event.target.matches(".tile-box:focus-visible")) rings.append(ring(event.target, "ring focus"));
});
map.addEventListener("focusout", unfocused);
onSelect(showMap);

if (levels.length) {
  const swatch = (share) => {
    const box = svg("rect", { width: 14, height: 10, rx: 2 });
    box.style.fill = shade(Math.exp(lowest + share * (highest - lowest)));
    return svg("svg", { width: 14, height: 10, "aria-hidden": "true" }, box);
  };
  const parts = highest > lowest ? [0, 0.25, 0.5, 0.75, 1] : [1];
  const [low, high] = [fmt(Math.exp(lowest), 3), fmt(Math.exp(highest), 3)];
  byId("map-scale").append(low, ...parts.map(swatch), ...(low === high ? [] : [high]));
}
whenResized(map, drawMap);
