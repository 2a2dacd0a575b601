// Target and downstream sensitivity of every copy of every weight, in execution order.

const depth = data.depth;
const depthBox = byId("depth-plot");
const order = depth.node.map((_, i) => i);
const copiesOf = new Map(); // the places of a weight's copies along depth
depth.node.forEach((number, i) => {
  if (!copiesOf.has(number)) copiesOf.set(number, []);
  copiesOf.get(number).push(i);
});
const SERIES = [["first", "target", "target"], ["second", "downstream", "downstream sensitivity"]];
let depthFrame = null;
const depthLines = svg("g");

function drawDepth(width) {
  if (!order.length) {
    depthBox.replaceChildren(el("p", { class: "dim" }, "the model has no weights"));
    return;
  }
  const positive = [...depth.target, ...depth.downstream].filter((value) => value > 0);
  const [low, high] = extent(positive.length ? positive : [1]);
  const about = `Targets from ${fmt(extent(depth.target)[0])} to ${fmt(extent(depth.target)[1])}, downstream ` +
    `sensitivities from ${fmt(extent(depth.downstream)[0])} to ${fmt(extent(depth.downstream)[1])}, of ` +
    `${order.length} weights in execution order. Arrow keys move along them, Enter selects one.`;
  depthFrame = axes({
    width, height: 240, x: [0, order.length - 1], y: [low, high], log: true,
    name: "target and downstream sensitivity along depth", about, xName: "weights in execution order",
  });
  depthFrame.picture.append(depthLines);
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const copy = (i) => {
    const all = copiesOf.get(depth.node[i]);
    return all.length > 1 ? ` (copy ${all.indexOf(i) + 1} of ${all.length})` : "";
  };
  cursor(depthFrame, order, readout,
    (i) => `${shownPath(nodes[depth.node[i]])}${copy(i)}: target ${fmt(depth.target[i])}, downstream ${fmt(depth.downstream[i])}`,
    (i) => select(nodes[depth.node[i]], "depth"));
  depthBox.replaceChildren(depthFrame.picture, readout);
  showDepth(selected);
}

function showDepth(node) {
  if (!depthFrame) return;
  const { X, Y } = depthFrame;
  const parts = [];
  for (const strong of [false, true]) {
    for (const [style, key] of SERIES) {
      let [line, dots] = ["", ""];
      for (const [number, places] of copiesOf) {
        if (isWithin(nodes[number], node) !== strong) continue;
        const values = places.map((i) => depth[key][i]);
        if (places.length > 1) line += lineOf(places, values, X, Y);
        dots += dotsOf(places, values, X, Y);
      }
      const weak = strong ? "" : " faint";
      if (line) parts.push(svg("path", { class: `series ${style}${weak || " faint"}`, d: line }));
      if (dots) parts.push(svg("path", { class: `points ${style}${weak}`, d: dots }));
    }
  }
  depthLines.replaceChildren(...parts);
}
onSelect(showDepth);

byId("depth-legend").append(el("span", { class: "legend" },
  ...SERIES.map(([style, , name]) => el("span", { class: style }, el("i", { "aria-hidden": "true" }), name))));

function depthTable() {
  const head = ["weight", "copies", "target", "downstream sensitivity"];
  const body = el("tbody");
  for (const [number, places] of copiesOf) {
    const ends = (key) => range([depth[key][places[0]], depth[key][places[places.length - 1]]]);
    body.append(el("tr", {}, el("td", {}, el("code", {}, shownPath(nodes[number]))),
      el("td", { class: "num" }, String(places.length)),
      el("td", { class: "num" }, ends("target")), el("td", { class: "num" }, ends("downstream"))));
  }
  const top = el("tr", {}, ...head.map((name, i) => el("th", { scope: "col", class: i ? "num" : null }, name)));
  byId("depth-table").append(el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "targets along depth" },
    el("table", {}, el("thead", {}, top), body)));
}
depthTable();
whenResized(depthBox, drawDepth);
