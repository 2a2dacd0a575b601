// What all views share: the data, elements, numbers in words, the part that is selected.

const data = JSON.parse(document.getElementById("data").textContent);
const nodes = data.nodes;
nodes.forEach((node, i) => {
  node.i = i;
  node.children = [];
  node.around = nodes[node.parent] || null;
  node.depth = node.around ? node.around.depth + 1 : 0;
  if (node.around) node.around.children.push(node);
});

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function filled(made, attributes, inner) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...inner.filter((part) => part !== null && part !== ""));
  return made;
}
const el = (tag, attributes, ...inner) => filled(document.createElement(tag), attributes, inner);
const svg = (tag, attributes, ...inner) =>
  filled(document.createElementNS(SVG, tag), attributes, inner);

const known = (value) => value !== null && value !== undefined;

function fmt(value, digits = 4) {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) {
    return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(digits)));
}
const percent = (share) =>
  share >= 0.0005 || !share ? `${(share * 100).toFixed(1)}%` : "< 0.1%";
const range = (pair, digits = 4) => {
  if (!pair) return "";
  const [first, last] = pair.map((value) => fmt(value, pair[0] === pair[1] ? 4 : digits));
  return first === last ? first : `${first} … ${last}`;
};
const counted = (count) => count.toLocaleString("en");
const shownPath = (node) => node.path ? node.path.replace(/\{0\}/g, "*").replace(/[{}]/g, "") : node.name;

// A part, what is around it, and so on.
function upward(node) {
  return node ? [node, ...upward(node.around)] : [];
}
const isWithin = (node, around) => upward(node).includes(around);

// A part is selected in one place for all views; `from` tells a view that it did it itself.
let selected = nodes[0];
const watchers = [];
const onSelect = (watcher) => watchers.push(watcher);
function select(node, from) {
  selected = node;
  for (const watcher of watchers) watcher(node, from);
}

// Scroll inside a box only: the page itself stays where the reader left it. What is out of sight
// comes to the nearest edge, or to the middle.
function reveal(box, inner, middle = false) {
  const [outer, found] = [box.getBoundingClientRect(), inner.getBoundingClientRect()];
  const moved = (start, end, outerStart, outerEnd, margin) => {
    const before = start - outerStart - margin;
    const after = end - outerEnd + margin;
    if (before >= 0 && after <= 0) return 0;
    if (middle) return (start + end - outerStart - outerEnd) / 2;
    return before < 0 ? before : Math.min(after, before);
  };
  box.scrollTop += moved(found.top, found.bottom, outer.top, outer.bottom, 24);
  box.scrollLeft += moved(found.left, found.right, outer.left, outer.right, 12);
}

// One of a group can be reached by Tab, the others from it by arrow keys.
function roving(group, items, choose) {
  const list = () => items().filter((item) => item.isConnected);
  group.addEventListener("keydown", (event) => {
    const all = list();
    const at = all.indexOf(document.activeElement);
    if (at < 0) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    let next = null;
    if (step) next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
    else if (event.key === "Home") next = all[0];
    else if (event.key === "End") next = all[all.length - 1];
    else if (event.key === "Enter" || event.key === " ") choose(all[at]);
    else return;
    event.preventDefault();
    if (next) moveTab(all, next).focus({ preventScroll: true });
  });
}
function moveTab(all, item) {
  for (const other of all) other.setAttribute("tabindex", other === item ? "0" : "-1");
  return item;
}

function whenResized(box, draw) {
  let width = 0;
  new ResizeObserver(([entry]) => {
    const found = Math.floor(entry.contentRect.width);
    if (found && found !== width) draw((width = found));
  }).observe(box);
}
