// Target and downstream sensitivity of every copy of every weight, in execution order.

const depth = data.depth;
const order = depth.node.map((_, i) => i);
const copiesOf = Map.groupBy(order, (i) => depth.node[i]); // the places of a weight's copies
const SERIES = [["first", "target", "target"], ["second", "downstream", "downstream sensitivity"]];

function depthLines({ X, Y }) {
  const parts = [];
  for (const strong of [false, true]) {
    const chosen = [...copiesOf].filter(([number]) => isWithin(nodes[number], selected) === strong);
    for (const [style, key] of SERIES) {
      let [line, dots] = ["", ""];
      for (const [, places] of chosen) {
        const values = places.map((i) => depth[key][i]);
        if (places.length > 1) line += lineOf(places, values, X, Y);
        dots += dotsOf(places, values, X, Y);
      }
      if (line) parts.push(svg("path", { class: `series ${style} faint`, d: line }));
      if (dots) parts.push(svg("path", { class: `points ${style}${strong ? "" : " faint"}`, d: dots }));
    }
  }
  return parts;
}

function depthAt(i) {
  const copies = copiesOf.get(depth.node[i]);
  const copy = copies.length > 1 ? ` (copy ${copies.indexOf(i) + 1} of ${copies.length})` : "";
  const values = `target ${fmt(depth.target[i])}, downstream ${fmt(depth.downstream[i])}`;
  return `${shownPath(nodes[depth.node[i]])}${copy}: ${values}`;
}

if (order.length) {
  const ends = (key) => extent(depth[key]).map((value) => fmt(value)).join(" to ");
  const positive = [...depth.target, ...depth.downstream].filter((value) => value > 0);
  chart(byId("depth-plot"), depthLines, depthAt, (i) => select(nodes[depth.node[i]], "depth"), {
    height: 240, xs: order, y: extent(positive.length ? positive : [1]), log: true,
    name: "target and downstream sensitivity along depth", xName: "weights in execution order",
    about: `Targets from ${ends("target")}, downstream sensitivities from ${ends("downstream")}, of ` +
      `${order.length} weights in execution order. Arrow keys move along them, Enter selects one.`,
  });
} else byId("depth-plot").append(el("p", { class: "dim" }, "the model has no weights"));

byId("depth-legend").append(el("span", { class: "legend" },
  ...SERIES.map(([style, , name]) => el("span", { class: style }, el("i", { "aria-hidden": "true" }), name))));

function depthTable() {
  const head = ["weight", "copies", "target", "downstream sensitivity"];
  const body = [...copiesOf].map(([number, places]) => {
    const ends = (key) => range([depth[key][places[0]], depth[key][places.at(-1)]]);
    const values = [String(places.length), ends("target"), ends("downstream")];
    return el("tr", {}, el("td", {}, el("code", {}, shownPath(nodes[number]))),
      ...values.map((value) => el("td", { class: "num" }, value)));
  });
  const top = el("tr", {}, ...head.map((name, i) => el("th", { scope: "col", class: i > 0 && "num" }, name)));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "targets along depth" },
    el("table", {}, el("thead", {}, top), el("tbody", {}, ...body)));
}
byId("depth-table").append(depthTable());
