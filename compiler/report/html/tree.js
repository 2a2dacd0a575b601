// The tree of parts: rows that fold, search, and what is known of the selected part.

const tree = byId("tree");
const search = byId("search");
const OPEN_ROWS = 60;
const folding = nodes.filter((node) => node.children.length);
const open = new Set(folding.filter((node) => nodes.length <= OPEN_ROWS || node.depth < 3));
let query = "";
let hits = new Set();
let rows = []; // [node, its element], in the order shown

const num = (text, style, title) => el("span", { class: style ? `num ${style}` : "num", title }, text);
const COLUMNS = [
  ["part", nameCell],
  ["mass", shareCell],
  ["declared", (node) => num(fmt(node.declared))],
  ["certified", (node) => num(fmt(node.certified), node.certified > node.declared * (1 + 1e-9) && "warn")],
  ["target", (node) => num(range(node.targets, 3))],
];
if (data.checked) {
  byId("parts").classList.add("measured");
  const shown = (node) => (known(node.measured) ? fmt(node.measured) : "");
  const measured = (node) => num(shown(node), node.verdict === "violated" && "bad", node.verdict);
  COLUMNS.splice(4, 0, ["measured", measured]);
}
byId("tree-head").append(...COLUMNS.map(([name], i) => el("span", { class: i > 1 && "num" }, name)));

const words = (node) => [node.name, node.op, node.call, node.path, shownPath(node)].filter(Boolean);
const matches = (node, text) => words(node).some((word) => word.toLowerCase().includes(text));
const isOpen = (node) => open.has(node) || (query && node.children.some((child) => hits.has(child)));

function visible() {
  const found = [];
  const walk = (node) => {
    if (query && !hits.has(node)) return;
    found.push(node);
    if (node.children.length && isOpen(node)) node.children.forEach(walk);
  };
  walk(nodes[0]);
  return found;
}

function marked(text) {
  const at = query ? text.toLowerCase().indexOf(query) : -1;
  if (at < 0) return [text];
  const end = at + query.length;
  return [text.slice(0, at), el("mark", {}, text.slice(at, end)), text.slice(end)];
}

function nameCell(node) {
  const twist = node.children.length ? (isOpen(node) ? "▾" : "▸") : "";
  const title = el(node.kind === "atom" ? "b" : "span", {}, ...marked(node.name));
  const cell = el("span", { class: "name", title: shownPath(node) }, el("span", { class: "twist", "aria-hidden": "true" }, twist), title);
  cell.style.paddingLeft = `${node.depth * 13 + 15}px`;
  if (node.count > 1) cell.append(el("span", { class: "times" }, ` × ${counted(node.count)}`));
  if (node.call) cell.append(" ", el("span", { class: "call" }, ...marked(node.call)));
  return cell;
}

function shareCell(node) {
  const width = data.checked ? 26 : 38;
  const filledTo = node.share ? Math.max(node.share * width, 1) : 0;
  const bar = svg("svg", { width, height: 10, "aria-hidden": "true" });
  bar.append(svg("rect", { width: filledTo, height: 10, rx: 1.5 }));
  return el("span", {}, bar, el("span", { class: "share" }, node.share ? percent(node.share) : ""));
}

function row(node, siblings) {
  return el(
    "div",
    {
      class: `row ${node.kind}`,
      role: "treeitem",
      id: `n${node.i}`,
      "aria-level": node.depth + 1,
      "aria-expanded": node.children.length ? String(Boolean(isOpen(node))) : null,
      "aria-setsize": siblings.length,
      "aria-posinset": siblings.indexOf(node) + 1,
      "aria-selected": String(node === selected),
      tabindex: node === selected ? "0" : "-1",
    },
    ...COLUMNS.map(([, cell]) => cell(node))
  );
}

function render() {
  const held = tree.contains(document.activeElement);
  const shown = visible();
  const groups = Map.groupBy(shown, (node) => node.around);
  rows = shown.map((node) => [node, row(node, groups.get(node.around))]);
  if (!rows.some(([node]) => node === selected) && rows.length) rows[0][1].setAttribute("tabindex", "0");
  tree.replaceChildren(...rows.map(([, made]) => made));
  if (held) focusRow(selected);
}

const rowOf = (node) => rows.find(([other]) => other === node);
function focusRow(node) {
  const found = rowOf(node) || rows[0];
  if (found) found[1].focus({ preventScroll: true });
}

function toggle(node, wanted = !isOpen(node)) {
  if (!node.children.length) return;
  if (wanted) open.add(node);
  else open.delete(node);
  render();
}

function go(node) {
  select(node, "tree");
  focusRow(node);
}

function clicked(event) {
  const made = event.target.closest("[role=treeitem]");
  return made ? nodes[Number(made.id.slice(1))] : null;
}
tree.addEventListener("click", (event) => {
  const node = clicked(event);
  if (!node) return;
  if (event.target.closest(".twist")) toggle(node);
  go(node);
});
tree.addEventListener("dblclick", (event) => {
  const node = clicked(event);
  if (node && !event.target.closest(".twist")) toggle(node);
});

tree.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const at = Math.max(rows.findIndex(([, made]) => made === document.activeElement), 0);
  if (!rows.length) return;
  const node = rows[at][0];
  const to = (index) => go(rows[Math.min(Math.max(index, 0), rows.length - 1)][0]);
  if (event.key === "ArrowDown") to(at + 1);
  else if (event.key === "ArrowUp") to(at - 1);
  else if (event.key === "Home") to(0);
  else if (event.key === "End") to(rows.length - 1);
  else if (event.key === "ArrowRight") {
    if (node.children.length && !isOpen(node)) toggle(node, true);
    else if (node.children.length) to(at + 1);
  } else if (event.key === "ArrowLeft") {
    if (node.children.length && isOpen(node) && !query) toggle(node, false);
    else if (node.around) go(node.around);
  } else if (event.key === "Enter" || event.key === " ") {
    toggle(node);
    go(node);
  } else if (event.key === "*") {
    for (const sibling of folding) if (sibling.around === node.around) open.add(sibling);
    render();
  } else if (event.key.length === 1 && event.key !== "/") {
    const letter = event.key.toLowerCase();
    const order = [...rows.slice(at + 1), ...rows.slice(0, at + 1)];
    const next = order.find(([other]) => other.name.toLowerCase().startsWith(letter));
    if (next) go(next[0]);
  } else return;
  event.preventDefault();
});

// --- search -------------------------------------------------------------------------------

function find(text) {
  query = text.trim().toLowerCase();
  const found = query ? nodes.filter((node) => matches(node, query)) : [];
  hits = new Set([nodes[0], ...found.flatMap(upward)]);
  byId("hits").textContent = query ? `${found.length} found` : "";
  render();
}
search.addEventListener("input", () => find(search.value));
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    search.value = "";
    find("");
    focusRow(selected);
  } else if (event.key === "Enter" || event.key === "ArrowDown") {
    const first = rows.find(([node]) => query && matches(node, query));
    go(first ? first[0] : selected);
  } else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (event.key !== "/" || typing || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  search.focus();
  search.select();
});
byId("expand").addEventListener("click", () => {
  folding.forEach((node) => open.add(node));
  render();
});
byId("collapse").addEventListener("click", () => {
  open.clear();
  open.add(nodes[0]);
  select(rowOf(selected) ? upward(selected).find((node) => node.depth <= 1) : nodes[0], "tree");
  render();
});

// --- the selected part ----------------------------------------------------------------------

function details(node) {
  const facts = [
    ["kind", node.op ? `${node.op}, ${node.kind}` : node.kind],
    ["copies", node.copies > 1 ? counted(node.copies) : ""],
    ["output", node.output],
    ["weight", node.shape ? node.shape.join(" × ") : ""],
    ["parameters", node.parameters ? counted(node.parameters) : ""],
    ["mass", node.mass ? `${fmt(node.mass)} (${percent(node.share)})` : "0"],
    ["declared", fmt(node.declared)],
    ["certified", fmt(node.certified)],
    ["measured", known(node.measured) ? fmt(node.measured) : ""],
    ["verdict", node.verdict || ""],
    ["target", node.targets ? (node.targets[1] === 0 ? "0 (frozen)" : range(node.targets)) : ""],
    ["output norm", node.norm || ""],
  ];
  const list = el("dl");
  for (const [name, value] of facts) {
    if (value !== "") list.append(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  }
  const place = el("a", { href: `#${node.at}` }, node.where);
  list.append(el("div", {}, el("dt", {}, "source"), el("dd", {}, place)));
  byId("details").replaceChildren(el("h3", {}, shownPath(node) + (node.call ? `: ${node.call}` : "")), list);
}

onSelect((node) => {
  const folded = upward(node.around).filter((around) => !isOpen(around));
  folded.forEach((around) => open.add(around));
  if (query && !hits.has(node)) {
    search.value = "";
    find("");
  }
  if (folded.length) render();
  for (const [other, made] of rows) {
    made.setAttribute("aria-selected", String(other === node));
    made.setAttribute("tabindex", other === node ? "0" : "-1");
  }
  details(node); // before the row is looked for: they take room from the tree
  const found = rowOf(node);
  if (found) reveal(byId("tree-box"), found[1]);
});
